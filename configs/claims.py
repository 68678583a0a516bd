"""What a paper says, beside which reports put the rows: see `reduction.report.claims`."""


def lines(**claims):
  """The config's `paper`: name -> (claim, what the paper says, measure)."""
  return {
    name: dict(claim=claim, paper=says, measure=measured)
    for name, (claim, says, measured) in claims.items()
  }
