#!/usr/bin/env python3
"""ggml-vulkan's matrix product at given shapes, through its C interface.

GGML_LIBRARIES names the folder with libggml-base.so and libggml-vulkan.so. ggml leaves out
software devices unless GGML_VK_VISIBLE_DEVICES names one, such as 0.
"""

import ctypes
import os
import sys

from common import arguments, difference, entry, sizes, timed, write

# enum ggml_type, and the largest relative error that the rounding of the weights explains.
TYPES = {
    "f32": (0, 2e-3),
    "f16": (1, 0.01),
    "q8_0": (8, 0.02),
    "q4_0": (2, 0.15),
    "q3_K": (11, 0.25),
}


class InitParams(ctypes.Structure):
    _fields_ = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


def load(folder):
    flags = ctypes.RTLD_GLOBAL
    base = ctypes.CDLL(os.path.join(folder, "libggml-base.so"), mode=flags)
    vulkan = ctypes.CDLL(os.path.join(folder, "libggml-vulkan.so"), mode=flags)
    pointer, size, i64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
    signatures = {
        "ggml_init": (pointer, [InitParams]),
        "ggml_free": (None, [pointer]),
        "ggml_new_tensor_2d": (pointer, [pointer, ctypes.c_int, i64, i64]),
        "ggml_mul_mat": (pointer, [pointer, pointer, pointer]),
        "ggml_new_graph": (pointer, [pointer]),
        "ggml_build_forward_expand": (None, [pointer, pointer]),
        "ggml_backend_alloc_ctx_tensors": (pointer, [pointer, pointer]),
        "ggml_backend_buffer_free": (None, [pointer]),
        "ggml_backend_graph_compute": (ctypes.c_int, [pointer, pointer]),
        "ggml_backend_synchronize": (None, [pointer]),
        "ggml_backend_tensor_set": (None, [pointer, pointer, size, size]),
        "ggml_backend_tensor_get": (None, [pointer, pointer, size, size]),
        "ggml_quantize_chunk": (
            size,
            [ctypes.c_int, pointer, pointer, i64, i64, i64, pointer],
        ),
        "ggml_nbytes": (size, [pointer]),
    }
    for name, (result, parameters) in signatures.items():
        function = getattr(base, name)
        function.restype, function.argtypes = result, parameters
    vulkan.ggml_backend_vk_init.restype = pointer
    vulkan.ggml_backend_vk_init.argtypes = [size]
    vulkan.ggml_backend_vk_get_device_count.restype = ctypes.c_int
    describe = vulkan.ggml_backend_vk_get_device_description
    describe.restype, describe.argtypes = None, [ctypes.c_int, ctypes.c_char_p, size]
    return base, vulkan


def product(base, backend, name, shape, seconds):
    import numpy

    kind, tolerance = TYPES[name]
    m, n, k = shape
    random = numpy.random.default_rng(1)
    x = random.standard_normal((m, k), dtype=numpy.float32)
    w = random.standard_normal((n, k), dtype=numpy.float32) / numpy.float32(k**0.5)
    context = base.ggml_init(InitParams(16 << 20, None, True))
    weight = base.ggml_new_tensor_2d(context, kind, k, n)
    tokens = base.ggml_new_tensor_2d(context, 0, k, m)
    result = base.ggml_mul_mat(context, weight, tokens)
    buffer = base.ggml_backend_alloc_ctx_tensors(context, backend)
    if not buffer:
        base.ggml_free(context)
        raise MemoryError("the device has no room")
    graph = base.ggml_new_graph(context)
    base.ggml_build_forward_expand(graph, result)
    length = base.ggml_nbytes(weight)
    packed = numpy.empty(length, dtype=numpy.uint8)
    base.ggml_quantize_chunk(kind, w.ctypes.data, packed.ctypes.data, 0, n, k, None)
    base.ggml_backend_tensor_set(weight, packed.ctypes.data, 0, length)
    base.ggml_backend_tensor_set(tokens, x.ctypes.data, 0, x.nbytes)

    def run():
        status = base.ggml_backend_graph_compute(backend, graph)
        base.ggml_backend_synchronize(backend)
        if status != 0:
            raise RuntimeError(f"ggml_backend_graph_compute returned {status}")

    run()
    rows = sorted({0, m // 2, m - 1})
    actual = numpy.empty((len(rows), n), dtype=numpy.float32)
    for i, row in enumerate(rows):
        base.ggml_backend_tensor_get(result, actual[i].ctypes.data, row * n * 4, n * 4)
    error = difference(actual, x[rows] @ w.T)
    ops = 2.0 * m * n * k
    found = entry("mul_mat", name, shape, ops, error, tolerance, lambda: timed(run, seconds))
    base.ggml_backend_buffer_free(buffer)
    base.ggml_free(context)
    return found


def main():
    options = arguments(__doc__, types=",".join(TYPES))
    folder = os.environ.get("GGML_LIBRARIES", "")
    try:
        base, vulkan = load(folder)
        import numpy  # noqa: F401
    except (OSError, ImportError) as error:
        write(options.out, "ggml-vulkan", None, [], f"not run: {error}")
        return
    if vulkan.ggml_backend_vk_get_device_count() == 0:
        missing = "not run: it sees no Vulkan device (software ones need GGML_VK_VISIBLE_DEVICES=0)"
        write(options.out, "ggml-vulkan", None, [], missing)
        return
    text = ctypes.create_string_buffer(256)
    vulkan.ggml_backend_vk_get_device_description(0, text, len(text))
    device = text.value.decode(errors="replace")
    backend = vulkan.ggml_backend_vk_init(0)
    found = []
    for shape in sizes(options.shapes):
        for name in options.types.split(","):
            try:
                found.append(product(base, backend, name, shape, options.seconds))
            except (MemoryError, RuntimeError) as error:
                print(f"{name} {shape}: {error}", file=sys.stderr)
            # Compiling for a software device takes minutes: what is there survives a limit of time.
            write(options.out, "ggml-vulkan", device, found)


if __name__ == "__main__":
    main()
