#!/usr/bin/env python3
"""What was found against what is asked for: a table of the JSON files in a folder.

`bars.py FOLDER [--small]`; a bar whose numbers are missing is named as not measured, never as met.
"""

import json
import os
import sys

# Products of a Wan-1.3B at 832x480 and 81 frames, as ggml and torch are given them.
PRODUCTS = ["32760x1536x1536", "32760x8960x1536"]
SMALL_PRODUCTS = ["256x1536x1536", "256x8960x1536"]
BITS = {"w4a4": "q4_0", "w3a3": "q3_K", "w8a8": "q8_0"}


class Found:
    """All entries of a folder."""

    def __init__(self, folder):
        self.documents = {}
        for name in sorted(os.listdir(folder)):
            if name.endswith(".json"):
                try:
                    with open(os.path.join(folder, name), encoding="utf-8") as file:
                        self.documents[name[: -len(".json")]] = json.load(file)
                except (OSError, ValueError) as error:
                    print(f"{name} is left out: {error}", file=sys.stderr)

    def ours(self, document, kernel, precision, case=None):
        """Seconds of one of our entries by its device's clock, or `None`."""
        for device in self.documents.get(document, {}).get("devices", []):
            for entry in device["entries"]:
                identity = entry["identity"]
                same = (identity["kernel"], identity["precision"]) == (kernel, precision)
                same = same and case in (None, identity["case"].replace(" ", ""))
                if same and entry["outcome"]["status"] == "timed":
                    return entry["outcome"]["seconds"]["median"]
        return None

    def breakdown(self, document, precision):
        """Time by kernel of a step, the largest part first."""
        for device in self.documents.get(document, {}).get("devices", []):
            for entry in device["entries"]:
                timed = entry["outcome"]
                if entry["identity"]["precision"] == precision and timed.get("breakdown"):
                    parts = timed["breakdown"]["kernels"]
                    return sorted(parts, key=lambda part: -part["seconds"])
        return []

    def peer(self, document, kernel, precision, shape, clock):
        """Seconds of a peer's entry, or `None`."""
        for entry in self.documents.get(document, {}).get("entries", []):
            identity = (entry["kernel"], entry["precision"], entry["shape"])
            if identity == (kernel, precision, shape) and not entry.get("unverified"):
                return entry.get(clock)
        return None

    def missing(self, document):
        """Why a peer left nothing, as far as it said so."""
        if document not in self.documents:
            return "no result"
        return self.documents[document].get("missing") or "no verified entry"


def ratio_line(name, ours, peer, least, why):
    """A bar on how many times faster than `peer` we are."""
    if ours is None or peer is None:
        return name, None, f"at least {least:.2g}", "not measured", why if ours else "no number of ours"
    ratio = peer / ours
    return name, ratio, f"at least {least:.2g}", "met" if ratio >= least else "NOT MET", ""


def products(found, small):
    clock = "cpu_seconds" if small else "wall_seconds"
    for shape in SMALL_PRODUCTS if small else PRODUCTS:
        for precision, kind in BITS.items():
            ours = found.ours("qvgen-matmul", "qmatmul", precision, shape)
            ggml = found.peer("ggml-vulkan", "mul_mat", kind, shape, clock)
            least = 4.0 if small else 1.0
            name = f"{precision} {shape}, times as fast as ggml-vulkan {kind}"
            yield ratio_line(name, ours, ggml, least, found.missing("ggml-vulkan"))
            if small:
                burn = found.ours("qvgen-matmul", "burn matmul", "f32", shape)
                name = f"{precision} {shape}, times as fast as Burn f32"
                yield ratio_line(name, ours, burn, 2.0, "no number of Burn's")
        ours = found.ours("qvgen-matmul", "qmatmul", "w4a4", shape)
        if small:
            three = found.ours("qvgen-matmul", "qmatmul", "w3a3", shape)
            yield ratio_line(f"w3a3 {shape}, speed over w4a4", three, ours, 0.85, "no w4a4")
        else:
            torch = found.peer("torch", "matmul", "bf16", shape, clock)
            name = f"w4a4 {shape}, speed over torch bf16"
            yield ratio_line(name, ours, torch, 0.25, found.missing("torch"))


def attention(found, small):
    if small:
        case = "2048x2048x12x128"
        ours = found.ours("qvgen-attention", "attention", "f32", case)
        burn = found.ours("qvgen-attention", "burn attention", "f32", case)
        name = "attention 2048x12x128, speed over Burn's best"
        yield ratio_line(name, ours, burn, 1.0, "no number of Burn's")
        return
    shape, case = "32760x12x128", "32760x32760x12x128"
    torch = found.peer("torch", "sdpa", "bf16", shape, "wall_seconds")
    precisions = ["f16", "f32"]
    times = {name: found.ours("qvgen-attention", "attention", name, case) for name in precisions}
    precision = min(precisions, key=lambda name: times[name] or float("inf"))
    name = f"attention {shape} ({precision}), speed over torch SDPA"
    yield ratio_line(name, times[precision], torch, 0.15, found.missing("torch"))


def cpu_device(found):
    for shape in SMALL_PRODUCTS:
        for precision, peer in [("w8a8", "b8 int8"), ("w4a4", "b4 int8")]:
            ours = found.ours("qvgen-cpu", "qmatmul", precision, shape)
            onnx = found.peer("onnxruntime", "product", peer, shape, "cpu_seconds")
            name = f"CPU device, {precision} {shape}, speed over ONNX Runtime's {peer}"
            yield ratio_line(name, ours, onnx, 1 / 3, found.missing("onnxruntime"))


def first_use(found):
    document = found.documents.get("first-use", {})
    for name, most in [("cold", 10.0), ("warm", 2.0)]:
        value = document.get(name, {}).get("wall_seconds")
        asked = f"below {most:g} s"
        title = f"first clip, {name}, seconds with all work"
        if value is None:
            yield title, None, asked, "not measured", "no result"
        else:
            yield title, value, asked, "met" if value < most else "NOT MET", ""


def steps(found, small):
    for frames in (9, 17) if small else (17, 81):
        document = f"qvgen-step-{frames}"
        full = found.ours(document, "step", "full")
        for precision in BITS:
            ours = found.ours(document, "step", precision)
            name = f"step of {frames} frames, {precision}, speed over full precision"
            # The pocket model is too small to gain anything: there the line only informs.
            yield ratio_line(name, ours, full, 0.0 if small else 1.0, "no step in full precision")


def print_table(lines):
    width = max(len(line[0]) for line in lines)
    print(f"{'bar':{width}}  {'found':>7}  {'asked for':>13}  result")
    for name, value, asked, result, why in lines:
        shown = "" if value is None else f"{value:.2f}"
        print(f"{name:{width}}  {shown:>7}  {asked:>13}  {result}{': ' + why if why else ''}")


def print_steps(found):
    for document in sorted(name for name in found.documents if name.startswith("qvgen-step-")):
        for precision in ["full", *BITS]:
            seconds = found.ours(document, "step", precision)
            if seconds is None:
                continue
            parts = found.breakdown(document, precision)
            shares = [f"{part['kernel']} {part['seconds']:.4g} s" for part in parts[:5]]
            print(f"{document[len('qvgen-step-'):]} frames, {precision}: {seconds:.4g} s/step"
                  f"{'; ' + ', '.join(shares) if shares else ''}")


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--small"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    small = "--small" in sys.argv
    found = Found(arguments[0])
    print_steps(found)
    lines = [*products(found, small), *attention(found, small), *steps(found, small)]
    lines += [*cpu_device(found), *first_use(found)]
    print_table(lines)
    counts = {result: sum(line[3] == result for line in lines) for result in
              ("met", "NOT MET", "not measured")}
    print(", ".join(f"{count} {result}" for result, count in counts.items()))


if __name__ == "__main__":
    main()
