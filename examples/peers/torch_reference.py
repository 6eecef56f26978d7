#!/usr/bin/env python3
"""What torch reaches on CUDA: products in bf16 and int8, and scaled-dot-product attention."""

from common import arguments, entry, sizes, timed, write


def main():
    options = arguments(__doc__)
    try:
        import torch
    except ImportError as error:
        write(options.out, "torch", None, [], f"not run: {error}")
        return
    if not torch.cuda.is_available():
        write(options.out, "torch", None, [], "not run: torch sees no CUDA device")
        return
    torch.manual_seed(1)
    found = []

    def distance(actual, expected):
        actual, expected = actual.double(), expected.double()
        return float((actual - expected).norm() / expected.norm())

    def measure(kernel, precision, shape, ops, run, error, tolerance):
        def synchronized():
            run()
            torch.cuda.synchronize()

        times = lambda: timed(synchronized, options.seconds)  # noqa: E731
        found.append(entry(kernel, precision, shape, ops, error, tolerance, times))

    for shape in sizes(options.shapes):
        m, n, k = shape
        x = torch.randn(m, k, device="cuda")
        w = torch.randn(n, k, device="cuda") / k**0.5
        expected = x[:16] @ w.T
        ops = 2.0 * m * n * k
        half, weight = x.bfloat16(), w.bfloat16()
        product = lambda: half @ weight.T  # noqa: E731
        measure("matmul", "bf16", shape, ops, product, distance(product()[:16], expected), 0.02)
        if hasattr(torch, "_int_mm") and m > 16:
            codes = torch.randint(-8, 8, (m, k), device="cuda", dtype=torch.int8)
            rows = torch.randint(-8, 8, (n, k), device="cuda", dtype=torch.int8)
            integer = lambda: torch._int_mm(codes, rows.T)  # noqa: E731
            exact = codes[:16].double() @ rows.double().T
            try:
                error = distance(integer()[:16], exact)
                measure("int_mm", "int8", shape, ops, integer, error, 0.0)
            except RuntimeError as failure:
                print(f"int_mm {shape}: {failure}")
    for shape in sizes(options.attention):
        tokens, heads, channels = shape
        q, k, v = (
            torch.randn(1, heads, tokens, channels, device="cuda", dtype=torch.bfloat16)
            for _ in range(3)
        )
        attend = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)  # noqa: E731
        few = q[:, :, :16].float() @ k.float().transpose(2, 3) / channels**0.5
        expected = few.softmax(dim=3) @ v.float()
        error = distance(attend()[:, :, :16], expected)
        ops = 4.0 * tokens * tokens * heads * channels
        measure("sdpa", "bf16", shape, ops, attend, error, 0.02)
    write(options.out, "torch", f"{torch.cuda.get_device_name()}, torch {torch.__version__}", found)


if __name__ == "__main__":
    main()
