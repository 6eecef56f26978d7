#!/usr/bin/env python3
"""ONNX Runtime's matrix products on the CPU: f32, and packed weights with int8 activations."""

from common import arguments, difference, entry, sizes, timed, write


def session(weight, bits, m):
    """A model of one product with `weight` [n, k], in f32 if `bits` is None."""
    import numpy
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    n, k = weight.shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, n])
    if bits is None:
        initial = [numpy_helper.from_array(numpy.ascontiguousarray(weight.T), "w")]
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
    else:
        block = 32
        groups = weight.reshape(n, k // block, block)
        middle = 1 << (bits - 1)
        scale = numpy.abs(groups).max(axis=2) / (middle - 1)
        codes = numpy.rint(groups / scale[..., None]) + middle
        codes = codes.clip(0, 2 * middle - 1).astype(numpy.uint8)
        if bits == 4:
            codes = codes[..., 0::2] | codes[..., 1::2] << 4
        initial = [
            numpy_helper.from_array(numpy.ascontiguousarray(codes), "w"),
            numpy_helper.from_array(scale.astype(numpy.float32).reshape(-1), "scale"),
        ]
        node = helper.make_node(
            "MatMulNBits",
            ["x", "w", "scale"],
            ["y"],
            domain="com.microsoft",
            K=k,
            N=n,
            bits=bits,
            block_size=block,
            accuracy_level=4,
        )
    graph = helper.make_graph([node], "product", [x], [y], initial)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = onnxruntime.SessionOptions()
    # Threads that spin between two calls would count as CPU time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def main():
    options = arguments(__doc__)
    try:
        import numpy
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        write(options.out, "onnxruntime", None, [], f"not run: {error}")
        return
    found = []
    for shape in sizes(options.shapes):
        m, n, k = shape
        random = numpy.random.default_rng(1)
        x = random.standard_normal((m, k), dtype=numpy.float32)
        w = random.standard_normal((n, k), dtype=numpy.float32) / numpy.float32(k**0.5)
        expected = x[:3] @ w.T
        for name, bits, tolerance in [("f32", None, 1e-5), ("b8 int8", 8, 0.03), ("b4 int8", 4, 0.2)]:
            product = session(w, bits, m)
            run = lambda: product.run(None, {"x": x})  # noqa: E731
            error = difference(run()[0][:3], expected)
            times = lambda: timed(run, options.seconds)  # noqa: E731
            found.append(entry("product", name, shape, 2.0 * m * n * k, error, tolerance, times))
    write(options.out, "onnxruntime", f"CPU, version {onnxruntime.__version__}", found)


if __name__ == "__main__":
    main()
