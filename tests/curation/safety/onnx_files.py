"""A real ONNX file, small enough to be written by hand: the means of the three colours, times a matrix, plus a bias."""

import struct

import numpy as np

FLOAT, INT = 1, 2  # kinds of a tensor's element and of an attribute


def colour_classifier(weight: np.ndarray, bias: np.ndarray, size: int) -> bytes:
    """[1, 3, size, size] -> GlobalAveragePool -> Flatten -> Gemm -> [1, k], for [k, 3] and [k]."""
    weight, bias = np.asarray(weight, np.float32), np.asarray(bias, np.float32)
    nodes = [
        _node("GlobalAveragePool", ["pixels"], ["pooled"]),
        _node("Flatten", ["pooled"], ["means"], axis=1),
        _node("Gemm", ["means", "weight", "bias"], ["scores"], transB=1),
    ]
    graph = b"".join(
        [
            *(_message(1, node) for node in nodes),
            _message(2, b"colours"),
            _message(5, _tensor("weight", weight)),
            _message(5, _tensor("bias", bias)),
            _message(11, _value("pixels", (1, 3, size, size))),
            _message(12, _value("scores", (1, len(bias)))),
        ]
    )
    opset = _message(1, b"") + _number(2, 13)
    return _number(1, 8) + _message(7, graph) + _message(8, opset)


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: int) -> bytes:
    names = b"".join(_message(1, name.encode()) for name in inputs)
    names += b"".join(_message(2, name.encode()) for name in outputs)
    settings = (_message(1, key.encode()) + _number(3, value) + _number(20, INT) for key, value in attributes.items())
    return names + _message(4, kind.encode()) + b"".join(_message(5, setting) for setting in settings)


def _tensor(name: str, values: np.ndarray) -> bytes:
    sides = b"".join(_number(1, side) for side in values.shape)
    return sides + _number(2, FLOAT) + _message(8, name.encode()) + _message(9, values.astype("<f4").tobytes())


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    sides = b"".join(_message(1, _number(1, side)) for side in shape)
    return _message(1, name.encode()) + _message(2, _message(1, _number(1, FLOAT) + _message(2, sides)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return struct.pack(f"{len(parts) + 1}B", *parts, value)
