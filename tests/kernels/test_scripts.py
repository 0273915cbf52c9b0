"""The benchmarks and the fuzzer, on tiny sizes: what they are for is run by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sagittal_core.results import read_results

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["bench_codebook", "bench_normal", "bench_nufft", "bench_sae", "bench_sparse"]
)
def test_benchmarks_run_and_write_results(name, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--threads", "1"]
    results = tmp_path / f"{name}.json"
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}  # compiling peers takes the most time
    command += ["--results", str(results)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    table = read_results(results)["tables"]["threads-1"]
    peers = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert {"1.00"} == {row["ratio"] for row in peers if row["peer"] == "sagittal"}
    assert len({row["peer"] for row in peers}) > 2
    assert all(row["ms"] == "not installed" or float(row["ms"]) >= 0 for row in peers)


@pytest.mark.slow
def test_the_benchmark_of_the_input_path_says_what_peers_cannot(tmp_path):
    script = ROOT / "benchmarks" / "bench_cxr_input.py"
    results = tmp_path / "bench_cxr_input.json"
    command = [sys.executable, str(script), "--quick", "--workers", "0", "--results", str(results)]
    subprocess.run(command, check=True, capture_output=True)
    found = read_results(results)["tables"]
    rates = {(row[0], row[2]): row[3] for row in found["images"]["rows"]}
    assert all(float(rate) > 0 for (_, reader), rate in rates.items() if reader == "sagittal")
    assert "reads it wrongly" in rates["PNG, 16 bits", "PIL loop"]
    assert "cannot read it" in rates["DICOM", "PIL loop"]
    assert float(rates["PNG 1024 x 1024", "PIL loop"]) > 0
    assert found["index"]["rows"][0][0] == "500"


def test_goals_are_read_from_the_timings(tmp_path):
    written = tmp_path / "goals.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "kernel_goals.py"), "--results", written]
    subprocess.run(command, check=True, capture_output=True)
    committed = read_results(ROOT / "results" / "kernel_goals.json")
    assert read_results(written)["tables"] == committed["tables"]


def test_fuzzer_runs_every_operator(native):
    if native.mode == "reference":
        pytest.skip(f"no compiled kernels: {native.reason}")
    script = str(ROOT / "tests" / "fuzz" / "fuzz_ops.py")
    found = subprocess.run(
        [sys.executable, script, "--cases", "8", "--library", native.path],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert {line["isa"] for line in lines} == {native.isa}
    assert {line["operator"] for line in lines} >= {"topk_encode", "spread", "codebook_lookup"}
