"""A stand-in for CuPy on the CPU, for tests of code that must run on a device where there is none.

With this folder's parent on PYTHONPATH, `import cupy` finds arrays that behave as a device's do towards NumPy: no
conversion but `get()`, no function of NumPy, no host array as operand, value, index or `out`. Where CuPy is lenient
(it sends np.exp on to cupy.exp and takes host arrays as indices) the stand-in refuses: each of those is a hidden
transfer or a call that only looks like NumPy. It exports names that CuPy has, and of them those that the package and
array-api-compat use; a name that is missing here is an AttributeError, to be looked up in CuPy's reference and added.

Kernels of the package's own are compiled by g++ and run thread after thread.

What it cannot show: that kernels compile for a device, round and clamp as NumPy's loops (an index beyond the end wraps
round in CuPy), cuBLAS' order of sums, synchronisation, memory, speed. Arithmetic is NumPy's, to the bit.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__version__ = "14.0.0"


class ndarray:
    """An array "on the device": a NumPy array that NumPy cannot see."""

    __array_ufunc__ = None  # np.exp(x) and host + x: NumPy leaves both to us

    def __init__(self, host: Any) -> None:
        self._host = np.asarray(host)
        self.device = cuda.Device()

    # what is refused

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_function__(self, function: Any, *args: Any) -> Any:
        raise TypeError(f"np.{function.__name__} must not be called with a device array")

    __hash__ = None  # type: ignore[assignment]

    # transfers to the host

    def get(self) -> np.ndarray:
        """A copy on the host."""
        return self._host.copy()

    def item(self) -> Any:
        """The only element, as a Python number."""
        return self._host.item()

    def tolist(self) -> Any:
        """Python numbers."""
        return self._host.tolist()

    def __float__(self) -> float:
        return float(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __bool__(self) -> bool:
        return bool(self._host)

    def __index__(self) -> int:
        return operator.index(self._host)

    # other libraries, without a copy

    def __dlpack__(self, **options: Any) -> Any:
        return self._host.__dlpack__(**{name: value for name, value in options.items() if name != "stream"})

    def __dlpack_device__(self) -> Any:
        return self._host.__dlpack_device__()

    # shape and memory

    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    dtype = property(lambda self: self._host.dtype)
    flags = property(lambda self: self._host.flags)
    strides = property(lambda self: self._host.strides)
    nbytes = property(lambda self: self._host.nbytes)
    T = property(lambda self: ndarray(self._host.T))
    real = property(lambda self: ndarray(self._host.real))
    imag = property(lambda self: ndarray(self._host.imag))

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"standin.{self._host!r}"

    def __getitem__(self, key: Any) -> ndarray:
        part = ndarray(self._host[_bare(key)])
        part.device = self.device
        return part

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[_bare(key)] = _bare(value)

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        """The array in another dtype; itself where nothing changes and no copy is asked for."""
        return self if not copy and self.dtype == dtype else ndarray(self._host.astype(dtype))


def _bare(value: Any) -> Any:
    """What NumPy may work on: the memory behind device arrays, and no host array."""
    if isinstance(value, ndarray):
        if value.device != cuda.Device():
            raise ValueError(f"Array device must be same as the current device: {value.device.id}")
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a host array of shape {value.shape} among device arrays")
    return type(value)(map(_bare, value)) if isinstance(value, list | tuple) else value


def _sent(result: Any) -> Any:
    """A result of NumPy on the device; no scalars there, but arrays without dimensions."""
    if isinstance(result, np.ndarray | np.generic):
        return ndarray(result)
    return type(result)(map(_sent, result)) if isinstance(result, list | tuple) else result


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of NumPy for arrays on the device and Python numbers."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        if out is not None and not isinstance(out, ndarray):
            raise TypeError("out must be a device array")
        result = function(*_bare(args), **{name: _bare(value) for name, value in kwargs.items()})
        return _sent(result) if out is None else out

    return call


def _of_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `on_device`, for functions that in CuPy take no bare number as their first argument."""
    inner = on_device(function)

    @functools.wraps(function)
    def call(first: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(first, ndarray | list | tuple):
            raise TypeError(f"{function.__name__} needs a device array, got {type(first)}")
        return inner(first, *args, **kwargs)

    return call


def _operator(name: str) -> Callable[[ndarray, Any], Any]:
    function = getattr(np.ndarray, name)

    def apply(self: ndarray, other: Any) -> Any:
        if not isinstance(other, ndarray | np.ndarray | np.generic | int | float | complex):
            return NotImplemented
        result = function(self._host, _bare(other))
        return self if name.startswith("__i") else _sent(result)

    return apply


for _name in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split():
    for _side in ("", "r", "i"):
        setattr(ndarray, f"__{_side}{_name}__", _operator(f"__{_side}{_name}__"))
for _name in "lt le gt ge eq ne".split():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in "__neg__ __pos__ __abs__ __invert__".split():
    setattr(ndarray, _name, on_device(getattr(np.ndarray, _name)))
for _name in "all any argmax argmin copy cumsum dot max mean min nonzero ravel reshape std sum take transpose".split():
    setattr(ndarray, _name, on_device(getattr(np.ndarray, _name)))

_FROM_NUMPY = """
    bool_ broadcast_shapes complex64 complex128 complexfloating dtype e finfo float32 float64 floating iinfo inf int8
    int16 int32 int64 integer intp isdtype issubdtype nan newaxis number pi signedinteger uint8 uint16 uint32 uint64
    unsignedinteger
"""
_UFUNCS = """
    abs absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh bitwise_and bitwise_or bitwise_xor ceil conj
    copysign cos cosh divide equal exp exp2 expm1 floor floor_divide fmax fmin greater greater_equal hypot invert
    isfinite isinf isnan left_shift less less_equal log log10 log1p log2 logaddexp logical_and logical_not logical_or
    logical_xor maximum minimum multiply negative nextafter not_equal positive power reciprocal remainder right_shift
    rint sign signbit sin sinh sqrt square subtract tan tanh trunc
"""
_CREATORS = "arange empty eye full linspace ones zeros"
_OF_ARRAYS = """
    all any argmax argmin argsort broadcast_arrays broadcast_to clip concatenate count_nonzero cross cumprod cumsum
    diagonal diff dot empty_like expand_dims flatnonzero flip full_like imag isin matmul max mean meshgrid min moveaxis
    nonzero ones_like outer prod ravel real repeat reshape roll round searchsorted sort squeeze stack std sum swapaxes
    take take_along_axis tensordot tile trace transpose tril triu unique var where zeros_like
"""
for _name in _FROM_NUMPY.split():  # CuPy, too, takes its dtypes and constants from NumPy
    globals()[_name] = getattr(np, _name)
for _name in f"{_UFUNCS} {_CREATORS}".split():
    globals()[_name] = on_device(getattr(np, _name))
for _name in _OF_ARRAYS.split():
    globals()[_name] = _of_arrays(getattr(np, _name))


def asarray(a: Any, dtype: Any = None) -> ndarray:
    """The array on the current device; what comes from the host or another one is copied."""
    if isinstance(a, ndarray) and a.device != cuda.Device():
        a = a.get()
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    return ndarray(np.array(a, dtype=dtype))


def array(a: Any, dtype: Any = None, copy: bool | None = True) -> ndarray:
    """As `asarray`, copied if asked for."""
    result = asarray(a, dtype)
    return ndarray(result.get()) if copy and result is a else result


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    """The array on the device in C order."""
    result = asarray(a, dtype)
    return result if result.flags.c_contiguous else ndarray(np.ascontiguousarray(result._host))


def result_type(*values: Any) -> np.dtype:
    """The dtype of an operation on these arrays, dtypes and numbers."""
    return np.result_type(*(value.dtype if isinstance(value, ndarray) else value for value in values))


class _MemoryPool:
    def free_all_blocks(self) -> None:
        """Gives back what is kept for later arrays."""


def get_default_memory_pool() -> _MemoryPool:
    """Where the device's memory comes from."""
    return _MemoryPool()


def is_available() -> bool:
    """Whether there is a device: the one that is played here."""
    return True


from cupy import cuda, fft, linalg  # noqa: E402, F401  (they use the names above)
from cupy.kernels import RawModule  # noqa: E402, F401
