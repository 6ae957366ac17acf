"""Translation as whole runs: what is kept, reported and refused."""

import importlib.util
import json
import random

import jax
import numpy as np
import pytest
from programs import finals

import rnnlab
from rnnlab import results
from rnnlab.data import DataError, pairs
from rnnlab.predict import translator
from rnnlab.reports import report
from rnnlab.runs import configs, program, run
from rnnlab.runs import folder as run_files
from rnnlab.sweeps import executors, sweep
from rnnlab.tasks import edits, translation

CELLS = ('lstm', 'gru')
SIZES = {f'model.{name}_size': 8 for name in ('hidden', 'embed', 'attention')}


def written(folder, lines=(60, 12, 20)):
  """Sentences of one to eight words, whose translations have the words in reverse."""
  draw = random.Random(0)
  folder.mkdir(parents=True, exist_ok=True)
  for name, count in zip(('train', 'val', 'test'), lines, strict=True):
    texts = [[draw.choice('abcdef') for _ in range(draw.randint(1, 8))] for _ in range(count)]
    (folder / f'{name}.xx').write_text('\n'.join(' '.join(text) for text in texts) + '\n')
    back = '\n'.join(' '.join(word.upper() for word in text[::-1]) for text in texts)
    (folder / f'{name}.yy').write_text(back + '\n')
  return folder


@pytest.fixture(autouse=True, scope='module')
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    yield


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  found = configs.default('translation')
  found.data.path = str(written(tmp_path_factory.mktemp('pairs')))
  found.data.languages = 'xx-yy'
  found.data.buckets = 2
  found.update_from_flattened_dict(SIZES)
  found.model.update(tied=True, label_smoothing=0.1, word_dropout=0.1, beam=2)
  found.optim.learning_rate = 0.02
  found.train.update(batch_size=8, epochs=2)
  return program.settle(found)


def runs(config, seeds=(0,)):
  of = [{'model.cell': cell, 'seed': seed} for cell in CELLS for seed in seeds]
  return sweep.expand(config, lambda add: [add(one) for one in of])


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
  """Two uninterrupted runs."""
  workdir = tmp_path_factory.mktemp('whole')
  events = list(executors.get('serial')(runs(config), workdir, lambda: False))
  assert [event.text for event in events if event.kind == 'failed'] == []
  return workdir


def test_what_a_run_says_is_what_its_translations_are(config, whole):
  """Counted again from the stored texts and the lines of the file."""
  right = (whole / config.data.path / 'test.yy').read_text().splitlines()
  for folder in whole.glob('cell-*'):
    result = json.loads((folder / run_files.RESULT).read_text())
    with np.load(folder / run_files.PREDICTIONS) as file:
      kept = dict(file)
    texts = [row.tobytes().rstrip(b'\0').decode() for row in kept['translations']]
    assert len(texts) == len(right) and {*' '.join(texts)} <= {*'ABCDEF '}
    wrong = [a != b for a, b in zip(texts, right, strict=True)]
    assert result['best']['test_sentence_error_rate'] == np.mean(wrong)
    counts = edits.distances([text.split() for text in texts], [text.split() for text in right])
    tokens = sum(len(text.split()) for text in right)
    assert result['best']['test_token_error_rate'] == counts.sum() / tokens
    assert kept['source_lengths'].tolist() == [len(text.split()) for text in right]
    nll, count = kept['best'].astype(float).T
    assert count.tolist() == [len(text.split()) + 1 for text in right]
    perplexity = np.exp(nll.sum() / count.sum())
    assert result['best']['test_perplexity'] == pytest.approx(perplexity, rel=1e-5)
    hard = run_files.read_hardest(folder)[0]
    place = int(np.argmax(nll / count))
    assert hard['row'] == place and hard['true'] == right[place]
    beam = [row.tobytes().rstrip(b'\0').decode() for row in kept['beam_translations']]
    asked = (whole / config.data.path / 'test.xx').read_text().splitlines()
    assert beam == rnnlab.load(folder).translate(asked, beam=2)
    wrong = [a != b for a, b in zip(beam, right, strict=True)]
    assert result['best']['test_beam_sentence_error_rate'] == np.mean(wrong)
    assert result['best']['test_beam_time'] > 0
    scored = importlib.util.find_spec('sacrebleu') is not None
    assert ('test_bleu' in result['best']) == scored == ('bleu_statistics' in kept)


def test_a_beam_of_the_task_is_that_of_predict(config, whole):
  """With random weights, so that there is output, and a beam finds likelier translations."""
  asked = (whole / config.data.path / 'test.xx').read_text().splitlines()
  (member,) = rnnlab.load(next(whole.glob('cell-*'))).members
  draw = np.random.default_rng(0)
  drawn = jax.tree.map(lambda a: draw.normal(0, 1, a.shape).astype(a.dtype), member.params)
  member = member._replace(params=drawn)
  source = pairs.encode(asked, member.encoding)
  greedy, beam = (
    translation.translated(member.model, member.params, source, member.encoding, size)
    for size in (1, 2)
  )
  translate = translator.Translator((member,)).translate
  assert beam == translate(asked, beam=2) and greedy == translate(asked, beam=1)
  assert beam != greedy and any(beam)


@pytest.mark.slow
def test_what_is_known_once_reaches_tables_with_intervals(config, whole):
  frame = results.load_runs(whole)
  rates = frame['best_test_token_error_rate']
  assert rates.notna().all() and 'validation_token_error_rate' not in frame
  assert frame['test_token_error_rate'].isna().all()  # only of the best parameters
  told = report.write(whole)
  page = (whole / 'summary.md').read_text()
  assert 'token error rate' in page and told.drawings
  compared = told.comparisons.set_index('metric').loc['best_test_token_error_rate']
  assert 0 < compared['p_items'] <= 1 and np.isnan(compared['items_low'])  # as with one seed each
  assert '| beam token error rate, % |' in page and '| beam time, seconds |' in page
  assert ('bleu' in page) == (importlib.util.find_spec('sacrebleu') is not None)


@pytest.mark.slow
def test_broken_off_it_goes_on_to_the_same_bits(config, whole, tmp_path):
  for spec in runs(config):
    events = run.events(spec, tmp_path)
    next(events)
    with pytest.raises(KeyboardInterrupt):
      events.throw(KeyboardInterrupt)
    assert [event.kind for event in run.events(spec, tmp_path)][-1] == 'done'
  assert finals(tmp_path) == finals(whole)


@pytest.mark.slow
def test_a_population_has_the_metrics_of_its_runs_by_themselves(config, whole, tmp_path):
  events = list(executors.get('population')(runs(config, (0, 1)), tmp_path, lambda: False))
  assert [event.kind for event in events].count('done') == 4
  found = finals(tmp_path)
  for name, (final, best, *_) in finals(whole).items():
    assert found[name][0] == pytest.approx(final, rel=1e-3)
    assert found[name][1] == pytest.approx(best, rel=1e-3)


REFUSED = [
  ({'model.tied': True, 'model.embed_size': 9}, 'model.embed_size=9 must equal'),
  ({'model.truncate': (2, 4)}, 'model.truncate'),
  ({'model.attention': 'aditive'}, 'additive'),
  ({'task.metric': 'bleu'}, 'perplexity'),
  ({'model.beam': 0}, 'model.beam'),
  ({'data.longer': True}, 'only drawn pairs'),
]


@pytest.mark.parametrize(('fields', 'words'), REFUSED)
def test_fields_that_do_not_go_together_are_refused(config, fields, words):
  with pytest.raises(ValueError, match=words):
    configs.change(config, fields)


def test_a_missing_side_is_told(config, tmp_path):
  (written(tmp_path / 'half') / 'val.yy').unlink()
  given = configs.change(config, {'data.path': str(tmp_path / 'half')})[0]
  with pytest.raises(DataError, match='val.yy'):
    translation.load(program.data_of(given))


def test_batches_are_as_wide_as_the_longer_side(config):
  made = translation.load(program.data_of(config))
  assert len(made.widths) == 2 and made.widths[-1] == 10  # eight words between two ids
  assert isinstance(made.spec, pairs.Spec)
