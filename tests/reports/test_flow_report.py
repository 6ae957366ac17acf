"""The figure of how far gradients reached, from the rows that runs kept."""

import json

import numpy as np
import pytest
from test_report import Page, write_run

from rnnlab import results
from rnnlab.reports import figures, report

LAGS = 0, 1, 2, 4, 8
LEFT = {'lstm': 0.9, 'elman': 0.1}  # the decay of a gradient per step back


def kept(cell, seed, scale=3.0):
  """Rows of two layers, the first with other numbers, for epochs 0 to 3."""
  return [
    {'epoch': epoch, 'layer': layer, 'lag': lag}
    | {'norm': scale * layer * (1 + seed) * (LEFT[cell] * (1 - epoch / 10)) ** (lag * (layer - 1))}
    for epoch in range(4)
    for layer in (1, 2)
    for lag in LAGS
  ]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Runs of two cells and two seeds that kept it."""
  path = tmp_path_factory.mktemp('flow')
  for cell in LEFT:
    for seed in range(2):
      folder = write_run(path, cell, seed)
      rows = ''.join(json.dumps(row) + '\n' for row in kept(cell, seed))
      (folder / 'gradient_flow.jsonl').write_text(rows)
  return path


def flow_of(workdir, layer=2):
  runs = results.load_runs(workdir)
  found = results.flow_of(workdir, runs.assign(group=results.label(runs)))
  return found[found['layer'] == layer]


def test_a_share_is_of_the_norm_at_the_last_step(workdir):
  found = flow_of(workdir)
  assert len(found) == 4 * 4 * len(LAGS)
  left = found['model.cell'].map(LEFT) * (1 - found['epoch'] / 10)
  np.testing.assert_allclose(found['share'], left ** found['lag'], rtol=1e-12)
  assert flow_of(workdir, 1)['share'].eq(1).all()


def test_lines_are_the_last_layer_s_at_first_and_at_last(workdir):
  fig = figures.gradient_flow(flow_of(workdir))
  assert [ax.get_title(loc='left') for ax in fig.axes] == ['Before training', 'After epoch 3']
  for ax, kept in zip(fig.axes, (1.0, 0.7), strict=True):
    lines = [line for line in ax.lines if len(line.get_xdata()) == len(LAGS) - 1]
    found = {line.get_color(): line.get_ydata() for line in lines}
    for cell, left in LEFT.items():
      np.testing.assert_allclose(found[figures.COLOURS[cell]], (left * kept) ** np.array(LAGS[1:]))
  assert fig.axes[0].get_ylim()[0] == 1e-8  # the Elman network's is less at a lag of 8
  assert {text.get_text() for text in fig.axes[1].texts} == {'LSTM', 'Elman'}


def test_what_is_0_or_was_not_kept_is_drawn_too(workdir):
  flow = flow_of(workdir)
  gone = flow.assign(share=flow['share'].where(flow['lag'] < 8, 0.0))
  gone.loc[gone['model.cell'] == 'lstm', 'share'] = np.nan
  fig = figures.gradient_flow(gone)
  assert [text.get_text() for text in fig.axes[1].texts] == ['Elman']


def test_the_heat_map_has_the_geometric_mean_of_each_epoch_and_lag(workdir):
  fig = figures.gradient_flow_by_epoch(flow_of(workdir))
  panels = {ax.get_title(loc='left'): ax for ax in fig.axes if ax.images}
  assert set(panels) == {'LSTM', 'Elman'}
  for cell, ax in (('lstm', panels['LSTM']), ('elman', panels['Elman'])):
    ((image,),) = [ax.images]
    lags, epochs = np.array(LAGS[1:])[:, None], np.arange(4)
    left = (LEFT[cell] * (1 - epochs / 10)) ** lags
    np.testing.assert_allclose(10.0 ** image.get_array(), np.maximum(left, 1e-8), rtol=1e-9)
    assert image.get_clim() == (-8, 0) and image.origin == 'lower'
  assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ['1', '2', '4', '8']


def test_the_heat_map_is_empty_where_no_share_is_known(workdir):
  flow = flow_of(workdir)
  flow.loc[(flow['epoch'] == 2) & (flow['model.cell'] == 'lstm'), 'share'] = np.nan
  flow = flow[(flow['epoch'] != 1) | (flow['model.cell'] != 'elman')]
  fig = figures.gradient_flow_by_epoch(flow)
  empty = {ax.get_title(loc='left'): ax.images[0].get_array().mask for ax in fig.axes if ax.images}
  assert empty['LSTM'].all(axis=0).tolist() == [False, False, True, False]
  assert empty['Elman'].all(axis=0).tolist() == [False, True, False, False]


def test_a_report_has_the_picture_where_runs_kept_it(workdir, tmp_path):
  told = report.write(workdir)
  (drawing,) = [drawing for drawing in told.drawings if drawing.name == 'gradient_flow']
  assert (workdir / 'figures' / 'gradient_flow.png').stat().st_size > 5000
  assert 'LSTM: 0.43 at first and 0.025 in the end, 8 steps before.' in drawing.alternative
  (drawing,) = [drawing for drawing in told.drawings if drawing.name == 'gradient_flow_by_epoch']
  assert (workdir / 'figures' / 'gradient_flow_by_epoch.png').stat().st_size > 5000
  assert 'LSTM: least 0.025 at epoch 3, most 0.43 at 0, 8 steps before.' in drawing.alternative
  page = Page(workdir / 'report.html')
  assert 'The norm of the gradient of the loss' in page.text
  write_run(tmp_path)
  assert 'gradient_flow' not in {drawing.name for drawing in report.write(tmp_path).drawings}
