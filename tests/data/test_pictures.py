"""Visual wake words and FDDB from a user's folder: tiny files in the published formats."""

import json

import numpy as np
import pytest
from PIL import Image

from reduction import data, detection
from reduction.data import faces
from reduction.errors import DataError, MissingInput, UsageError

pytestmark = pytest.mark.usefixtures('alone')


def picture(path, shade: int, size=(12, 8)):
  """A picture of one color, (width, height) = size."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, (shade, shade, shade)).save(path)


@pytest.fixture
def by_folder(tmp_path):
  """MLPerf Tiny's: ten people, whose pictures are light, and twenty without, which are dark."""
  for name, count, shade in ('person', 10, 200), ('non_person', 20, 20):
    for i in range(count):
      picture(tmp_path / 'vw_coco2014_96' / name / f'COCO_{i:03}.jpg', shade + i)
  return tmp_path


@pytest.fixture
def annotated(tmp_path):
  """pyvww's: of five pictures two have people, one of them two."""
  root = tmp_path / 'vww'
  for part, ids, people in ('train', (9, 4, 7), (4, 4)), ('val', (1, 2), (2,)):
    images = [dict(id=i, file_name=f'COCO_{i:012}.jpg', height=8, width=12) for i in ids]
    marks = [dict(image_id=i, category_id=1, area=30.0, bbox=[1, 1, 5, 6]) for i in people]
    marks += [dict(image_id=i, category_id=0, area=0.0, bbox=[]) for i in ids if i not in people]
    (root / 'annotations').mkdir(parents=True, exist_ok=True)
    (root / 'annotations' / f'instances_{part}.json').write_text(
      json.dumps(dict(images=images, annotations=marks, categories=[]))
    )
    for i in ids:
      picture(root / f'{part}2014' / f'COCO_{i:012}.jpg', 10 * i)
  return tmp_path


def test_people_by_folder(by_folder):
  made = data.visual_wake_words(data_dir=by_folder, side=6, validation=9)
  assert (len(made.train.y), len(made.validation.y), len(made.test.y)) == (18, 9, 3)
  assert made.classes == 2 and made.train.x.shape[1:] == (6, 6, 3)
  for split in made.train, made.validation, made.test:
    assert ((split.x.mean((1, 2, 3)) > 0.5) == split.y).all()
  # the first tenth of each class, by name: 200, and 20 and 21
  assert sorted(np.round(255 * made.test.x[:, 0, 0, 0])) == pytest.approx([20, 21, 200], abs=1)
  few = data.visual_wake_words(data_dir=by_folder, side=6, validation=0, examples=12)
  assert len(few.train.y) == 12 and len(few.test.y) == 3


def test_wake_words_from_a_folder_of_one_s_own(tmp_path):
  load = lambda: data.visual_wake_words(data_dir=tmp_path, side=8, validation=2)
  with pytest.raises(MissingInput, match='train/CLASS'):
    load()
  for part, count in ('train', 3), ('test', 2):
    for name, gray in ('nothing', 40), ('person', 200):
      (tmp_path / 'vww' / part / name).mkdir(parents=True)
      for i in range(count):
        picture = Image.new('RGB', (20 + i, 12), (gray + i,) * 3)
        picture.save(tmp_path / 'vww' / part / name / f'{i}.png')
  found = load()
  assert (found.classes, found.train.x.shape, len(found.validation.y)) == (2, (4, 8, 8, 3), 2)
  for each in (found.train, found.validation, found.test):
    np.testing.assert_array_equal(each.x.mean((1, 2, 3)) > 0.5, each.y)
  (tmp_path / 'vww' / 'test' / 'person' / '1.png').write_bytes(b'no picture')
  with pytest.raises(DataError, match=r'1\.png: broken image'):
    load()


def test_people_by_annotation(annotated):
  made = data.visual_wake_words(data_dir=annotated, side=4, validation=0)
  shade = lambda split: np.round(25.5 * split.x[:, 0, 0, 0]).astype(int)
  assert dict(zip(shade(made.train), made.train.y)) == {9: 0, 4: 1, 7: 0}
  assert dict(zip(shade(made.test), made.test.y)) == {1: 0, 2: 1}


def test_what_is_not_so_is_said(annotated, by_folder, tmp_path):
  with pytest.raises(MissingInput, match=r'Visual Wake Words not found in .*non_person'):
    data.visual_wake_words(data_dir=tmp_path / 'vww' / 'annotations')
  table = tmp_path / 'vww' / 'annotations' / 'instances_val.json'
  good = json.loads(table.read_text())
  for images, says in (
    ([dict(id=1, file_name='../../secret.jpg')], r"'../../secret.jpg'; need names without"),
    ([dict(id=1, file_name='gone.jpg')], 'gone.jpg is not there'),
    ([dict(id=1)], 'not annotations of visual wake words'),
  ):
    marks = [dict(image_id=1, category_id=1)]
    table.write_text(json.dumps(dict(good, images=images, annotations=marks)))
    with pytest.raises((DataError, MissingInput), match=says):
      data.visual_wake_words(data_dir=annotated, validation=0)
  marks = [dict(image_id=1, category_id=17)]
  table.write_text(json.dumps(dict(good, annotations=marks)))
  with pytest.raises(DataError, match=r'categories \[0, 17\]'):
    data.visual_wake_words(data_dir=annotated, validation=0)
  (tmp_path / 'vw_coco2014_96' / 'person' / 'COCO_003.jpg').write_bytes(b'\xff\xd8 no picture')
  table.unlink()
  (tmp_path / 'vww' / 'annotations' / 'instances_train.json').unlink()
  with pytest.raises(DataError, match=r'COCO_003.jpg: broken image'):
    data.visual_wake_words(data_dir=by_folder, validation=0)


FACE = '3.000000 1.000000 1.570796 6.000000 4.000000  1'  # upright: 1 across, 3 up and down


def test_ellipses_by_hand():
  upright = [3, 1, np.pi / 2, 6, 4]
  slanted = [5, 3, np.pi / 4, 6, 4]  # half of 25 and of 9: root 17 each way
  found = faces.around([upright, slanted, [1, 1, 0, 30, 4]], 8, 12)
  np.testing.assert_allclose(found.boxes[0], [5 / 12, 1 / 8, 7 / 12, 7 / 8])
  reach = np.sqrt(17)
  np.testing.assert_allclose(found.boxes[1], [(6 - reach) / 12, 0, (6 + reach) / 12, 1])
  assert len(found.boxes) == len(found.kinds) == 2  # the third lies outside


@pytest.fixture
def folds(tmp_path):
  """Ten folds of a picture each; the third has two faces, the fourth none."""
  for fold in range(1, 11):
    name = f'2002/08/{fold:02}/big/img_{fold}'
    count = {3: 2, 4: 0}.get(fold, 1)
    text = '\n'.join([name, str(count), *[FACE] * count]) + '\n'
    path = tmp_path / 'fddb' / 'FDDB-folds' / f'FDDB-fold-{fold:02}-ellipseList.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    picture(tmp_path / 'fddb' / 'originalPics' / f'{name}.jpg', 10 * fold)
  return tmp_path


def test_faces_of_ten_folds_become_what_cells_should_say(folds):
  made = data.fddb(data_dir=folds, size=16)
  assert [len(made[part].x) for part in ('train', 'validation', 'test')] == [8, 1, 1]
  assert [len(one.boxes) for one in made['train'].boxes] == [1, 1, 2, 0, 1, 1, 1, 1]
  np.testing.assert_allclose(made['test'].x.mean(), 100 / 255, atol=2 / 255)
  grid = made['test'].grids((4, 4))
  assert grid.shape == (1, 4, 4, 6) and grid[..., 0].sum() == 1
  there = grid[0, 2, 2]  # the center (6, 4) of 12 x 8 is that of the picture
  np.testing.assert_allclose(there, [1, 0, 0, (2 / 12) ** 0.5, (6 / 8) ** 0.5, 1], atol=1e-6)
  assert detection.average_precision([made['test'].boxes[0]], [made['test'].boxes[0]]) == 1


@pytest.mark.parametrize(
  'text, says',
  [
    ('../../etc/passwd\n1\n' + FACE, r"line 1: '../../etc/passwd' is no picture"),
    ('2002/08/11/big/img_1\nmany\n' + FACE, "line 2: 'many' is no number of faces"),
    ('2002/08/11/big/img_1\n2\n' + FACE, 'ends after 1 of 2 faces'),
    ('2002/08/11/big/img_1\n1\n1 2 3', "line 3: '1 2 3' is no face of six numbers"),
    ('2002/08/11/big/img_1\n1\n0 1 0 4 4 1', 'line 3: .* is no ellipse'),
    ('2002/08/11/big/img_1\n1\nnan 1 0 4 4 1', 'line 3: .* is no ellipse'),
  ],
)
def test_a_list_that_is_none_names_its_line(tmp_path, text, says):
  path = tmp_path / 'list.txt'
  path.write_text(text)
  with pytest.raises(DataError, match=says):
    faces.listed(path)


def test_wrong_folds_are_refused(folds):
  for settings in dict(test=(11,)), dict(test=(9,)), dict(test=()):
    with pytest.raises(UsageError, match='must be different folds of 1 to 10'):
      data.fddb(data_dir=folds, **settings)
