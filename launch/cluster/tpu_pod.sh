#!/bin/bash
# One run on all hosts of a TPU pod slice; the hosts find each other.
#
#   TPU=my-pod ZONE=us-east5-b launch/cluster/tpu_pod.sh --config=configs/lottery/resnet.py --workdir=/mnt/shared/resnet
#
# Needs gcloud, and the project with its .venv in ~/reduction on every host; the workdir on a file
# system that all hosts see.
set -euo pipefail
: "${TPU:?name the TPU VM}" "${ZONE:?name its zone}"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd reduction && .venv/bin/python -m launch.run $(printf '%q ' "$@")"
