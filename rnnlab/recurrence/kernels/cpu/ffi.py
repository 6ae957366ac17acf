"""XLA's call of a function on a CPU, as Numba reads it: the structs of XLA's ffi/api/c_api.h.

A target is compiled for one signature. It receives only addresses, so it checks the type, the rank
and the sizes of each operand before it touches the data, and if they do not match it returns an
error, which JAX raises.
"""

import ctypes
import functools
from ctypes import POINTER, c_int, c_int64, c_size_t, c_void_p

import jax
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

VERSION = 0, 3  # major and minor, of the interface with the structs below
KNOWN = {(0, 3), (0, 4)}  # the versions of XLA in which they are the same; a test compares them


# The structs, each with its fields up to the last one used here.


class Version(ctypes.Structure):
  """XLA_FFI_Api_Version."""

  _fields_ = [
    ('struct_size', c_size_t),
    ('extension_start', c_void_p),
    ('major_version', c_int),
    ('minor_version', c_int),
  ]


class Api(ctypes.Structure):
  """XLA_FFI_Api."""

  _fields_ = [
    ('struct_size', c_size_t),
    ('extension_start', c_void_p),
    ('api_version', Version),
    ('internal_api', c_void_p),
    ('XLA_FFI_Error_Create', c_void_p),
  ]


class ErrorArgs(ctypes.Structure):
  """XLA_FFI_Error_Create_Args."""

  _fields_ = [
    ('struct_size', c_size_t),
    ('extension_start', c_void_p),
    ('message', c_void_p),
    ('errc', c_int),
  ]


class Metadata(ctypes.Structure):
  """XLA_FFI_Metadata."""

  _fields_ = [
    ('struct_size', c_size_t),
    ('api_version', Version),
    ('traits', c_int),
    ('state_type_id', c_int64),
  ]


class Extension(ctypes.Structure):
  """XLA_FFI_Metadata_Extension, with the fields of its base, `type` among them."""

  _fields_ = [
    ('struct_size', c_size_t),
    ('type', c_int),
    ('next', c_void_p),
    ('metadata', c_void_p),
  ]


class Buffer(ctypes.Structure):
  """XLA_FFI_Buffer."""

  _fields_ = [
    ('struct_size', c_size_t),
    ('extension_start', c_void_p),
    ('dtype', c_int),
    ('data', c_void_p),
    ('rank', c_int64),
    ('dims', c_void_p),
  ]


class Args(ctypes.Structure):
  """XLA_FFI_Args."""

  _fields_ = [
    ('struct_size', c_size_t),
    ('extension_start', c_void_p),
    ('size', c_int64),
    ('types', c_void_p),
    ('args', c_void_p),
  ]


class Rets(ctypes.Structure):
  """XLA_FFI_Rets."""

  _fields_ = Args._fields_[:-1] + [('rets', c_void_p)]


class CallFrame(ctypes.Structure):
  """XLA_FFI_CallFrame."""

  _fields_ = [
    ('struct_size', c_size_t),
    ('extension_start', c_void_p),
    ('api', POINTER(Api)),
    ('ctx', c_void_p),
    ('stage', c_int),
    ('args', Args),
    ('rets', Rets),
  ]


STRUCTS = {
  'XLA_FFI_Api_Version': Version,
  'XLA_FFI_Api': Api,
  'XLA_FFI_Error_Create_Args': ErrorArgs,
  'XLA_FFI_Metadata': Metadata,
  'XLA_FFI_Metadata_Extension': Extension,
  'XLA_FFI_Buffer': Buffer,
  'XLA_FFI_Args': Args,
  'XLA_FFI_Rets': Rets,
  'XLA_FFI_CallFrame': CallFrame,
}
METADATA, BUFFER, INVALID_ARGUMENT = 1, 1, 3  # of XLA's enums: extensions, operands, errors
BOOL, INT32, UINT8, FLOAT32 = 1, 4, 6, 11  # of XLA_FFI_DataType


_asked = []  # targets whose addresses XLA holds


@functools.cache
def version() -> tuple[int, int]:
  """The major and minor version of XLA's interface, which XLA tells a target on registration."""
  found = []

  @ctypes.CFUNCTYPE(c_void_p, POINTER(CallFrame))
  def target(frame):
    own = frame.contents.api.contents.api_version
    found.append((own.major_version, own.minor_version))
    extension = Extension.from_address(frame.contents.extension_start)
    metadata = Metadata.from_address(extension.metadata)
    metadata.api_version.major_version = own.major_version
    metadata.api_version.minor_version = own.minor_version
    metadata.traits = metadata.state_type_id = 0

  jax.local_devices(backend='cpu')  # JAX can register nothing before there are devices
  jax.ffi.register_ffi_target('rnnlab_version', jax.ffi.pycapsule(target), platform='cpu')
  _asked.append(target)
  return found[0]


# The same structs for Numba.

_jit = numba.njit(error_model='numpy')
_word = ir.IntType(64)

_EXTENSION, _API = CallFrame.extension_start.offset, CallFrame.api.offset
_TYPE, _METADATA = Extension.type.offset, Extension.metadata.offset
_ANNOUNCED = Metadata.api_version.offset + Version.major_version.offset
_TRAITS, _STATE = Metadata.traits.offset, Metadata.state_type_id.offset
_VERSION_WORD = VERSION[0] | VERSION[1] << 32
_ARGS, _RETS = CallFrame.args.offset, CallFrame.rets.offset
_SIZE, _TYPES, _LIST = Args.size.offset, Args.types.offset, Args.args.offset
_DTYPE, _DATA = Buffer.dtype.offset, Buffer.data.offset
_RANK, _DIMS = Buffer.rank.offset, Buffer.dims.offset
_CREATE = Api.XLA_FFI_Error_Create.offset
_ERROR_SIZE = ErrorArgs.errc.offset + ErrorArgs.errc.size
_LOW = 0xFFFFFFFF  # the int in the first half of a word


@intrinsic
def _load(typing, address):
  """The word at an address."""

  def generate(context, builder, signature, arguments):
    return builder.load(builder.inttoptr(arguments[0], _word.as_pointer()))

  return types.intp(address), generate


@intrinsic
def _store(typing, address, value):
  """Writes a word."""

  def generate(context, builder, signature, arguments):
    address, value = arguments
    builder.store(value, builder.inttoptr(address, _word.as_pointer()))
    return context.get_dummy_value()

  return types.void(address, types.intp), generate


@intrinsic
def _call(typing, function, argument):
  """The word that the function at an address returns for an address."""

  def generate(context, builder, signature, arguments):
    kind = ir.FunctionType(_word, [_word])
    return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [arguments[1]])

  return types.intp(types.intp, types.intp), generate


@intrinsic
def pointer(typing, address):
  """An address as a pointer."""

  def generate(context, builder, signature, arguments):
    return builder.inttoptr(arguments[0], cgutils.voidptr_t)

  return types.voidptr(types.intp), generate


@intrinsic
def address(typing, array):
  """The address of an array: `array.ctypes.data`, which Numba takes long to compile."""

  def generate(context, builder, signature, arguments):
    (kind,), (value,) = signature.args, arguments
    return builder.ptrtoint(context.make_array(kind)(context, builder, value).data, _word)

  return types.intp(array), generate


@_jit
def is_question(frame):
  """Whether XLA only asks for metadata; answers with the version that this is written for."""
  extension = _load(frame + _EXTENSION)
  if extension == 0 or _load(extension + _TYPE) & _LOW != METADATA:
    return False
  metadata = _load(extension + _METADATA)
  _store(metadata + _ANNOUNCED, _VERSION_WORD)
  _store(metadata + _TRAITS, 0)
  _store(metadata + _STATE, 0)  # the type of a state: none
  return True


def signature(letters: str, arguments: str, results: str) -> tuple[np.ndarray, int]:
  """The arguments and results of a target, for `misfit`: one word per operand.

  Its first letter is the type, f, i or b for float32, int32, and bool or uint8; the others, from
  `letters`, are its axes, and axes with the same letter have the same size. Returns a row per
  operand, of its type, rank and axes (as indices into `letters`), and how many rows are arguments.
  """
  operands = arguments.split() + results.split()
  rows = np.full((len(operands), 5), -1)
  for row, (kind, *axes) in zip(rows, operands, strict=True):
    row[:2] = {'f': FLOAT32, 'i': INT32, 'b': BOOL}[kind], len(axes)
    row[2 : 2 + len(axes)] = [letters.index(axis) for axis in axes]
  return rows, len(arguments.split())


@_jit
def misfit(frame, rows, arguments, sizes):
  """The number of the first operand that does not match `signature`, 0 if there are too few.

  -1 if all match: sizes then holds the letters' sizes, and -1 for a letter that no operand has.
  Operands are counted from 1, arguments before results.
  """
  for size in range(len(sizes)):
    sizes[size] = -1
  counts = _load(frame + _ARGS + _SIZE), _load(frame + _RETS + _SIZE)
  if counts[0] != arguments or counts[1] != len(rows) - arguments:
    return 0
  for i in range(len(rows)):
    part, number = (_ARGS, i) if i < arguments else (_RETS, i - arguments)
    of_type = _load(frame + part + _TYPES) + 4 * number
    if numba.carray(pointer(of_type), 1, np.int32)[0] != BUFFER:
      return i + 1
    buffer = operand(frame, part, number)
    dtype = _load(buffer + _DTYPE) & _LOW
    if dtype != rows[i, 0] and not (dtype == UINT8 and rows[i, 0] == BOOL):
      return i + 1
    if _load(buffer + _RANK) != rows[i, 1]:
      return i + 1
    for axis in range(rows[i, 1]):
      size, letter = dim(buffer, axis), rows[i, 2 + axis]
      if sizes[letter] == -1:
        sizes[letter] = size
      if sizes[letter] != size:
        return i + 1
  return -1


@_jit
def operand(frame, part, number):
  """The address of an operand's buffer; part: `_ARGS` or `_RETS`."""
  return _load(_load(frame + part + _LIST) + 8 * number)


@_jit
def dim(buffer, axis):
  return _load(_load(buffer + _DIMS) + 8 * axis)


@_jit
def argument(frame, number):
  """The address of an argument's data, and its buffer."""
  buffer = operand(frame, _ARGS, number)
  return _load(buffer + _DATA), buffer


@_jit
def result(frame, number):
  """The address of a result's data, and its buffer."""
  buffer = operand(frame, _RETS, number)
  return _load(buffer + _DATA), buffer


_MESSAGE = np.frombuffer(
  b'The CPU kernel is not for operand 00 of this call (arguments, then results, from 1;'
  b' 0: their number, or sizes that do not go together).\0',
  np.uint8,
)
_DIGITS = bytes(_MESSAGE).index(b'00')


@_jit
def error(frame, number):
  """The error that a target returns for an operand, given its number."""
  message = _MESSAGE.copy()
  message[_DIGITS] += number // 10
  message[_DIGITS + 1] += number % 10
  args = np.zeros(4, np.int64)
  args[0], args[2], args[3] = _ERROR_SIZE, address(message), INVALID_ARGUMENT
  made = _call(_load(_load(frame + _API) + _CREATE), address(args))
  return made + 0 * (message[0] + args[0])  # both live until here
