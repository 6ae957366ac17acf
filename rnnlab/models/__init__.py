"""What surrounds the recurrence, in Flax linen: embedding, dropout, pooling, head."""

from rnnlab.models import initial as conventions
from rnnlab.models.classifier import SequenceClassifier
from rnnlab.models.language_model import LanguageModel
from rnnlab.models.layers import POOLINGS, PRECISIONS, Dropout, Recurrent, WordDropout, pool
from rnnlab.models.rolls import RollModel
from rnnlab.models.seq2seq import Seq2Seq

__all__ = [
  'POOLINGS',
  'PRECISIONS',
  'Dropout',
  'LanguageModel',
  'Recurrent',
  'RollModel',
  'Seq2Seq',
  'SequenceClassifier',
  'WordDropout',
  'conventions',
  'pool',
]
