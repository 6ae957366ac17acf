"""What type checkers and editors see of the names that `__init__.py` loads at their first use."""

from rnnlab import cells as cells
from rnnlab import configs as configs
from rnnlab import interop as interop
from rnnlab import tasks as tasks
from rnnlab.cells.base import Cell as Cell
from rnnlab.cells.base import Lookup as Lookup
from rnnlab.cells.elman import elman as elman
from rnnlab.cells.gru import gru as gru
from rnnlab.cells.lstm import LSTMCarry as LSTMCarry
from rnnlab.cells.lstm import lstm as lstm
from rnnlab.machine.devices import mesh as mesh
from rnnlab.machine.devices import use_cores as use_cores
from rnnlab.models import Recurrent as Recurrent
from rnnlab.models import SequenceClassifier as SequenceClassifier
from rnnlab.models import conventions as conventions
from rnnlab.models import pool as pool
from rnnlab.models.adapters import LinenCell as LinenCell
from rnnlab.models.adapters import NNXCell as NNXCell
from rnnlab.predict import Ensemble as Ensemble
from rnnlab.predict import Predictor as Predictor
from rnnlab.predict import export as export
from rnnlab.predict import load as load
from rnnlab.predict import load_ensembles as load_ensembles
from rnnlab.recurrence import bidirectional as bidirectional
from rnnlab.recurrence import dropout_masks as dropout_masks
from rnnlab.recurrence import flow as flow
from rnnlab.recurrence import stacked as stacked
from rnnlab.recurrence import unroll as unroll
from rnnlab.results import load_metrics as load_metrics
from rnnlab.results import load_runs as load_runs
from rnnlab.runs.experiment import Result as Result
from rnnlab.runs.run import run as run
from rnnlab.sweeping import sweep as sweep

__version__: str
__all__: list[str]
