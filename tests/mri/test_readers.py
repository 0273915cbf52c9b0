import dataclasses
import math
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from raw_files import Line, header_xml, noise, write_fastmri, write_ismrmrd

from sagittal_core.errors import ConfigError, DataError
from sagittal_mri.data.fastmri import read_fastmri
from sagittal_mri.data.io import index_kspace, read_kspace
from sagittal_mri.data.ismrmrd_raw import read_ismrmrd
from sagittal_mri.data.record import KspaceRecord
from sagittal_mri.physics.fourier import center_crop, fft2c, ifft2c

REAL_KSPACE = Path("/work/shared/data/kspace/cartesian_8coil_230x180.npy")


def expect_error(error, path, key, *words):
    """The message names file, key, expected and found."""
    text = str(error.value)
    assert str(path) in text
    assert key in error.value.key
    for word in words:
        assert word in text, f"{word!r} not in:\n{text}"


# --- fastMRI ------------------------------------------------------------------------------------


def oversampled_header(readout, phase, recon, limits=None):
    return header_xml(
        (readout, phase, 1),
        (*recon, 1),
        encoded_fov=(2.0 * recon[0], float(phase), 4.5),
        recon_fov=(float(recon[0]), float(recon[1]), 4.5),
        limits=limits,
    )


def test_fastmri_train_file_crops_the_oversampled_readout_in_image_space(tmp_path):
    kspace = noise((3, 4, 32, 20))
    image = ifft2c(torch.from_numpy(kspace))
    reference = center_crop(image, (16, 16)).abs().square().sum(1).sqrt().numpy()
    attrs = {"acquisition": "AXT2", "max": reference.max(), "norm": "12.5", "patient_id": "secret"}
    path = write_fastmri(
        tmp_path / "train.h5",
        kspace,
        xml=oversampled_header(32, 20, (16, 16), limits=(19, 10)),
        attrs=attrs,
        reconstruction_rss=reference,
    )
    record = read_kspace(path)
    assert record.kspace.shape == (3, 4, 16, 20)
    assert record.image_shape == (16, 16)
    assert record.mask.shape == (1, 20)
    assert bool(record.mask.all())
    ours = center_crop(ifft2c(record.kspace), record.image_shape).abs().square().sum(1).sqrt()
    torch.testing.assert_close(ours, record.reference)
    assert record.voxel_size_mm == (1.0, 1.0, 4.5)
    assert record.attributes["acquisition"] == "AXT2"
    assert record.patient_id == "secret"
    assert "secret" not in repr(record)


def test_fastmri_reads_only_the_wanted_slices(tmp_path):
    kspace = noise((5, 2, 8, 6))
    path = write_fastmri(tmp_path / "a.h5", kspace, reconstruction_rss=np.ones((5, 8, 6), "f4"))
    record = read_fastmri(path, range(1, 3))
    assert np.array_equal(record.kspace.numpy(), kspace[1:3])
    assert record.reference.shape[0] == 2
    for wrong in (range(0, 6), range(2, 2), range(0, 4, 2), range(-1, 2)):
        with pytest.raises(DataError) as error:
            read_fastmri(path, wrong)
        expect_error(error, path, "slices", "0..5", repr(wrong))


def test_fastmri_test_file_mask_excludes_padding(tmp_path):
    kspace = noise((2, 3, 8, 12))
    kspace[..., :2] = 0
    kspace[..., 10:] = 0
    mask = np.zeros(12, np.float32)
    mask[[0, 3, 5, 6, 11]] = 1
    kspace[..., mask == 0] = 0
    # The centre is step 4 of 0..7, so that steps fill columns 2..9 of 12.
    xml = header_xml((8, 12, 1), (8, 12, 1), limits=(7, 4))
    record = read_kspace(write_fastmri(tmp_path / "test.h5", kspace, xml=xml, mask=mask))
    assert record.mask[0].nonzero().flatten().tolist() == [3, 5, 6]
    assert any("padded" in note for note in record.notes)


def test_fastmri_mask_zeroes_what_it_leaves_out(tmp_path):
    mask = np.arange(10) % 2 == 0
    record = read_kspace(write_fastmri(tmp_path / "a.h5", noise((1, 2, 6, 10)), mask=mask))
    assert bool((record.kspace[..., 1::2] == 0).all())
    assert any("outside /mask" in note for note in record.notes)


def test_fastmri_without_mask_infers_columns_and_says_so(tmp_path):
    kspace = noise((2, 2, 6, 10))
    kspace[..., [1, 4]] = 0
    kspace[0, 0, 0, 0] = 0  # a zero in one coil is a value, not a gap
    record = read_kspace(write_fastmri(tmp_path / "a.h5", kspace))
    assert (~record.mask[0]).nonzero().flatten().tolist() == [1, 4]
    assert any("2 of 10 columns" in note for note in record.notes)


def test_fastmri_single_coil(tmp_path):
    esc = np.ones((2, 8, 8), np.float32)
    path = write_fastmri(tmp_path / "sc.h5", noise((2, 8, 10)), reconstruction_esc=esc)
    record = read_kspace(path)
    assert record.kspace.shape == (2, 1, 8, 10)
    assert record.image_shape == (8, 8)


def test_fastmri_header_of_an_already_cropped_file(tmp_path):
    xml = oversampled_header(32, 12, (16, 12))
    record = read_kspace(write_fastmri(tmp_path / "c.h5", noise((1, 2, 16, 12)), xml=xml))
    assert record.kspace.shape == (1, 2, 16, 12)
    assert record.voxel_size_mm == (1.0, 1.0, 4.5)
    assert any("already" in note for note in record.notes)


def test_fastmri_oversampled_readout_with_one_run_of_samples(tmp_path):
    kspace = noise((1, 2, 32, 8))
    kspace[:, :, :8] = 0  # asymmetric echo
    path = write_fastmri(tmp_path / "e.h5", kspace, xml=oversampled_header(32, 8, (16, 8)))
    record = read_kspace(path)
    assert record.mask.shape == (16, 8)
    assert bool(record.mask[4:].all())
    assert not bool(record.mask[:4].any())
    kspace[:, :, 20] = 0
    write_fastmri(path, kspace, xml=oversampled_header(32, 8, (16, 8)))
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "kspace", "gaps", "32")


def test_complex128_is_rounded_and_noted(tmp_path):
    record = read_kspace(write_fastmri(tmp_path / "a.h5", noise((1, 2, 6, 6)).astype("c16")))
    assert record.kspace.dtype == torch.complex64
    assert any("complex128" in note for note in record.notes)


@pytest.mark.skipif(not REAL_KSPACE.is_file(), reason="development data: no real k-space here")
def test_real_undersampled_kspace_has_the_mask_of_its_zeros(tmp_path):
    kspace = np.load(REAL_KSPACE)
    record = read_kspace(write_fastmri(tmp_path / "real.h5", kspace[None]))
    zeros = (kspace == 0).all(0)
    assert record.mask.shape == kspace.shape[1:]
    assert np.array_equal(record.mask.numpy(), ~zeros)
    assert np.array_equal(record.kspace[0].numpy(), kspace)


# --- bad input ----------------------------------------------------------------------------------


def test_file_that_is_absent_empty_or_no_hdf5(tmp_path):
    path = tmp_path / "x.h5"
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "file", "no such file")
    path.write_bytes(b"")
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "file", "an HDF5 file", "0 bytes")
    path.write_text("these are not the bytes you are looking for" * 20)
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "file", "an HDF5 file", "without the HDF5 signature")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_file(tmp_path, share):
    path = write_fastmri(tmp_path / "x.h5", noise((4, 4, 16, 16)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "file", "complete HDF5 file", "truncated")


def test_neither_layout(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.ones(3)
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "kspace", "/ismrmrd_header", "holds: images")


def test_missing_header(tmp_path):
    path = write_fastmri(tmp_path / "x.h5", noise((1, 2, 6, 6)))
    with h5py.File(path, "a") as file:
        del file["ismrmrd_header"]
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "ismrmrd_header", "a dataset of this name", "kspace")


@pytest.mark.parametrize(
    ("xml", "word"),
    [
        ("no xml at all", "no XML"),
        ("<ismrmrdHeader/>", "0 of them"),
        ("<h><encoding><encodedSpace/></encoding></h>", "found:    [0, 0]"),
        ('<!DOCTYPE h [<!ENTITY a "b">]><h>&a;</h>', "entity"),
        (header_xml(("many", 6, 1), (6, 6, 1)), "'many'"),
        (header_xml((6, 6, 1), ("NaN", 6, 1)), "'NaN'"),
        (header_xml(("1e9", 6, 1), (6, 6, 1)), "[1000000000.0, 6.0]"),
        (header_xml((6, 6, 1), (6, 6, 1), recon_fov=("inf", 1, 1)), "'inf'"),
        (header_xml((6, 6, 1), (6, 6, 1), limits=("inf", 3)), "'inf'"),
    ],
)
def test_unusable_header(tmp_path, xml, word):
    path = write_fastmri(tmp_path / "x.h5", noise((1, 2, 6, 6)), xml=xml)
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "ismrmrd_header", word)


def _nan(kspace):
    kspace[0, 1, 2, 3] = np.nan
    return kspace


BAD_KSPACE = {
    "dtype": (lambda k: k.real, "complex64", "float32"),
    "axes": (lambda k: k[0, 0], "(slices, coils, readout, phase)", "(6, 8)"),
    "nan": (_nan, "finite", "(0, 1, 2, 3)"),
    "empty": (lambda k: k[:0], "four non-empty axes", "(0, 3, 6, 8)"),
}


@pytest.mark.parametrize("case", BAD_KSPACE)
def test_unusable_kspace(tmp_path, case):
    change, *words = BAD_KSPACE[case]
    path = write_fastmri(tmp_path / "x.h5", change(noise((2, 3, 6, 8))))
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "kspace", *words)


BAD_KEYS = {
    "mask length": ({"mask": np.ones(9)}, "mask", "(8,) or (6, 8)", "(9,)"),
    "mask keeps nothing": ({"mask": np.zeros(8)}, "mask", "at least one", "none of 8"),
    "mask numbers": ({"mask": np.full(8, 0.5)}, "mask", "0 and 1", "other numbers"),
    "mask dtype": ({"mask": np.array([b"x"] * 8)}, "mask", "numbers", "S1"),
    "reference slices": (
        {"reconstruction_rss": np.ones((3, 6, 8), "f4")},
        "reconstruction_rss",
        "(2 slices, h, w)",
        "(3, 6, 8)",
    ),
    "reference size": (
        {"reconstruction_rss": np.ones((2, 9, 9), "f4")},
        "reconstruction",
        "(6, 8)",
        "(9, 9)",
    ),
    "reference dtype": (
        {"reconstruction_rss": np.ones((2, 6, 8), "i4")},
        "reconstruction_rss",
        "float32",
        "int32",
    ),
    "reference sign": (
        {"reconstruction_rss": -np.ones((2, 6, 8), "f4")},
        "reference",
        "magnitudes >= 0",
        "from -1",
    ),
    "coils": (
        {"noise_covariance": np.eye(4, dtype="c8")},
        "noise_covariance",
        "(3, 3)",
        "(4, 4)",
    ),
    "covariance": (
        {"noise_covariance": -np.eye(3, dtype="c8")},
        "noise_covariance",
        "positive diagonal",
        "-1",
    ),
    "trajectory range": (
        {"trajectory": np.full((6, 8, 2), 4.0, "f4")},
        "trajectory",
        "[-pi, pi]",
        "4 to 4",
    ),
    "trajectory shape": (
        {"trajectory": np.zeros((6, 9, 2), "f4")},
        "trajectory",
        "(6, 8, 2)",
        "(6, 9, 2)",
    ),
    "trajectory dtype": (
        {"trajectory": np.zeros((6, 8, 2), "c8")},
        "trajectory",
        "radians per pixel",
        "complex64",
    ),
    "mask of spokes": (
        {"trajectory": np.zeros((6, 8, 2), "f4"), "mask": np.array([b"x"] * 6)},
        "mask",
        "0 and 1",
        "S1",
    ),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_unusable_companions_of_kspace(tmp_path, case):
    datasets, key, *words = BAD_KEYS[case]
    path = write_fastmri(tmp_path / "x.h5", noise((2, 3, 6, 8)), **datasets)
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, key, *words)


@pytest.mark.parametrize("mask", [np.full(8, 0.5), np.array([b"x"] * 8), np.ones(9)])
def test_an_index_trusts_no_mask_that_the_reader_refuses(tmp_path, mask):
    path = write_fastmri(tmp_path / "x.h5", noise((2, 3, 6, 8)), mask=mask)
    for read in (read_kspace, index_kspace):
        with pytest.raises(DataError) as error:
            read(path)
        expect_error(error, path, "mask")


def test_an_index_counts_no_padding_as_acquired(tmp_path):
    kspace = noise((2, 3, 8, 12))
    kspace[..., :2] = kspace[..., 10:] = 0
    xml = header_xml((8, 12, 1), (8, 12, 1), limits=(7, 4))
    path = write_fastmri(tmp_path / "x.h5", kspace, xml=xml, mask=np.ones(12))
    assert torch.equal(index_kspace(path).columns, read_kspace(path).mask)
    assert int(index_kspace(path).columns.sum()) == 8


def test_the_other_byte_order_is_read_alike(tmp_path):
    kspace = noise((2, 3, 6, 8))
    path = write_fastmri(tmp_path / "x.h5", kspace.astype(">c8"))
    assert np.array_equal(read_kspace(path).kspace.numpy(), kspace)


def test_a_folder_and_a_file_without_permission(tmp_path, monkeypatch):
    with pytest.raises(DataError) as error:
        read_kspace(tmp_path)
    expect_error(error, tmp_path, "file", "an existing file", "a folder")
    path = write_fastmri(tmp_path / "x.h5", noise((2, 3, 6, 8)))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "file", "may be read", "permission denied")


def test_nan_is_counted_before_the_readout_crop_spreads_it(tmp_path):
    kspace = _nan(noise((2, 3, 32, 8)))
    path = write_fastmri(tmp_path / "x.h5", kspace, xml=oversampled_header(32, 8, (16, 8)))
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "kspace", "finite", "1 not finite, the first at (0, 1, 2, 3)")


def test_kspace_that_is_zero_everywhere(tmp_path):
    path = write_fastmri(tmp_path / "x.h5", np.zeros((2, 3, 6, 8), np.complex64))
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "mask", "at least one acquired position")


def test_record_checks_what_is_made_in_memory():
    record = KspaceRecord(
        kspace=torch.ones(1, 2, 4, 6, dtype=torch.complex64),
        mask=torch.ones(1, 6, dtype=torch.bool),
        trajectory=None,
        image_shape=(4, 5),
        source=Path("memory"),
    )
    assert record.is_cartesian
    wrong = {
        "image_shape": (3, 6),
        "mask": torch.ones(1, 6),
        "reference": torch.ones(1, 4, 6),
        "voxel_size_mm": (1.0, 0.0, 1.0),
        "affine": torch.eye(4),
        "kspace": torch.ones(1, 2, 4, 6),
    }
    for key, value in wrong.items():
        with pytest.raises(DataError) as error:
            dataclasses.replace(record, **{key: value})
        expect_error(error, "memory", key)


# --- ISMRMRD, Cartesian -------------------------------------------------------------------------

XML = header_xml((8, 6, 1), (8, 6, 1), limits=(5, 3))


def cartesian_lines(kspace, **kwargs):
    """Lines of k-space ``(slices, coils, readout, phase)``."""
    return [
        Line(kspace[s, :, :, step], step=step, slice=s, **kwargs)
        for s in range(kspace.shape[0])
        for step in range(kspace.shape[3])
    ]


def test_ismrmrd_cartesian_equals_the_array(tmp_path):
    kspace = noise((2, 3, 8, 6))
    lines = [line for line in cartesian_lines(kspace) if line.step != 4]
    record = read_kspace(write_ismrmrd(tmp_path / "a.h5", XML, lines[::-1]))
    kspace[..., 4] = 0
    assert np.array_equal(record.kspace.numpy(), kspace)
    assert record.mask.tolist() == [[True] * 4 + [False, True]]
    assert record.image_shape == (8, 6)
    assert record.noise_covariance is None


def test_ismrmrd_many_lines_cross_the_reading_blocks(tmp_path):
    kspace = noise((3, 1, 4, 200))
    xml = header_xml((4, 200, 1), (4, 200, 1), limits=(199, 100))
    record = read_kspace(write_ismrmrd(tmp_path / "a.h5", xml, cartesian_lines(kspace)))
    assert np.array_equal(record.kspace.numpy(), kspace)


def test_ismrmrd_phase_centre_places_partial_fourier(tmp_path):
    kspace = noise((1, 2, 8, 4))
    # Four steps with the centre at step 1 belong in columns 2..5 of 6.
    xml = header_xml((8, 6, 1), (8, 6, 1), limits=(3, 1))
    record = read_kspace(write_ismrmrd(tmp_path / "a.h5", xml, cartesian_lines(kspace)))
    assert record.mask.tolist() == [[False] * 2 + [True] * 4]
    assert np.array_equal(record.kspace[..., 2:].numpy(), kspace)


def test_ismrmrd_asymmetric_echo_and_discarded_samples(tmp_path):
    kspace = noise((1, 2, 8, 6))
    lines = [
        # The first two samples of the grid were not measured; one more on each side is discarded.
        Line(
            np.pad(kspace[0, :, 3:7, step], ((0, 0), (1, 1)), constant_values=99),
            step=step,
            center_sample=2,
            head={"discard_pre": 1, "discard_post": 1},
        )
        for step in range(6)
    ]
    record = read_kspace(write_ismrmrd(tmp_path / "a.h5", XML, lines))
    assert record.mask.shape == (8, 6)
    assert record.mask[:, 0].nonzero().flatten().tolist() == [3, 4, 5, 6]
    assert np.array_equal(record.kspace[0, :, 3:7].numpy(), kspace[0, :, 3:7])


def test_ismrmrd_averages_are_averaged_and_divide_the_noise(tmp_path):
    kspace = noise((1, 2, 8, 6))
    lines = cartesian_lines(kspace) + [
        dataclasses.replace(line, data=3 * line.data, counters={"average": 1})
        for line in cartesian_lines(kspace)
    ]
    lines.insert(0, Line(noise((2, 500), seed=1), flags=(19,)))
    path = write_ismrmrd(tmp_path / "a.h5", XML, lines)
    record = read_kspace(path)
    torch.testing.assert_close(record.kspace, 2 * torch.from_numpy(kspace))
    single = read_ismrmrd(path, select={"average": 0})
    torch.testing.assert_close(single.kspace, torch.from_numpy(kspace))
    torch.testing.assert_close(record.noise_covariance, single.noise_covariance / 2)
    uneven = read_kspace(write_ismrmrd(tmp_path / "b.h5", XML, lines[:-1]))
    assert uneven.noise_covariance is None
    assert any("different averages" in note for note in uneven.notes)


def test_ismrmrd_noise_covariance_is_scaled_to_the_imaging_dwell_time(tmp_path):
    factor = noise((3, 3), seed=2).astype(complex)
    truth = factor @ factor.conj().T
    samples = factor @ noise((3, 20000), seed=3) / math.sqrt(2)
    lines = [
        Line(samples[:, half], flags=(19,), head={"sample_time_us": 5.0})
        for half in (slice(0, 10000), slice(10000, 20000))
    ]
    lines += cartesian_lines(noise((1, 3, 8, 6)), head={"sample_time_us": 10.0})
    system = (
        "<acquisitionSystemInformation><relativeReceiverNoiseBandwidth>0.8"
        "</relativeReceiverNoiseBandwidth></acquisitionSystemInformation>"
    )
    xml = header_xml((8, 6, 1), (8, 6, 1), limits=(5, 3), system=system)
    record = read_kspace(write_ismrmrd(tmp_path / "a.h5", xml, lines))
    expected = torch.from_numpy(truth * 0.5 / 0.8).to(torch.complex64)
    error = (record.noise_covariance - expected).abs().max() / expected.abs().max()
    assert float(error) < 0.05  # 20,000 samples: about 0.7 % standard error
    assert any("scaled by 0.625" in note for note in record.notes)
    assert any("2 noise readouts left out" in note for note in record.notes)


def test_oversampling_removal_keeps_the_noise_variance(tmp_path):
    xml = header_xml((64, 64, 1), (32, 64, 1), limits=(63, 32))
    lines = cartesian_lines(noise((1, 2, 64, 64)))
    record = read_kspace(write_ismrmrd(tmp_path / "a.h5", xml, lines))
    assert record.kspace.shape == (1, 2, 32, 64)
    assert float(record.kspace.abs().square().mean()) == pytest.approx(2.0, rel=0.05)
    assert any("64 to 32" in note for note in record.notes)


def test_ismrmrd_leaves_out_and_counts_what_is_no_image_data(tmp_path):
    kspace = noise((1, 2, 8, 6))
    junk = [Line(noise((2, 8), seed=9), step=1, flags=(flag,)) for flag in (20, 23, 24, 24, 27)]
    record = read_kspace(write_ismrmrd(tmp_path / "a.h5", XML, junk + cartesian_lines(kspace)))
    assert np.array_equal(record.kspace.numpy(), kspace)
    for note in (
        "1 calibration readouts left out",
        "1 navigator readouts left out",
        "2 phase correction readouts left out",
        "1 dummy readouts left out",
    ):
        assert note in record.notes


def test_ismrmrd_embedded_calibration_lines_are_data(tmp_path):
    kspace = noise((1, 2, 8, 6))
    extra = (
        "<parallelImaging><accelerationFactor/><calibrationMode>embedded</calibrationMode>"
        "</parallelImaging>"
    )
    xml = header_xml((8, 6, 1), (8, 6, 1), limits=(5, 3), extra=extra)
    lines = [line for line in cartesian_lines(kspace) if line.step != 3]
    lines.append(Line(kspace[0, :, :, 3], step=3, flags=(20,)))
    lines.append(Line(noise((2, 8), seed=4), step=2, flags=(20,)))  # line 2 is there already
    record = read_kspace(write_ismrmrd(tmp_path / "a.h5", xml, lines))
    assert np.array_equal(record.kspace.numpy(), kspace)
    assert "1 embedded calibration readouts used as data" in record.notes


def test_ismrmrd_several_contrasts_need_a_choice(tmp_path):
    first, second = noise((1, 2, 8, 6)), noise((1, 2, 8, 6), seed=5)
    lines = cartesian_lines(first) + cartesian_lines(second, counters={"contrast": 1})
    path = write_ismrmrd(tmp_path / "a.h5", XML, lines)
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "idx.contrast", "one contrast", "[0, 1]", "select={'contrast': 0}")
    record = read_ismrmrd(path, select={"contrast": 1})
    assert np.array_equal(record.kspace.numpy(), second)
    with pytest.raises(DataError) as error:
        read_ismrmrd(path, select={"contrast": 7})
    expect_error(error, path, "dataset/data", "none of 12", "'contrast': 7")
    with pytest.raises(ConfigError, match="echo"):
        read_ismrmrd(path, select={"echo": 0})


def _change(index, **changes):
    def apply(lines):
        lines[index] = dataclasses.replace(lines[index], **changes)
        return lines

    return apply


BAD_LINES = {
    "3-D": (_change(0, counters={"kspace_encode_step_2": 2}), "step_2", "3-D", "up to 2"),
    "EPI": (_change(1, flags=(22,)), "flags", "EPI", "1 reversed"),
    "coils": (_change(1, data=noise((3, 8))), "active_channels", "the same number", "[2, 3]"),
    "echo": (_change(1, center_sample=0), "data[1].head", "(8, 6)", "samples 4..11"),
    "step": (_change(1, step=77), "data[1].head", "(8, 6)", "column 77"),
    "encoding": (_change(1, head={"encoding_space_ref": 1}), "encoding", "one encoding", "[0, 1]"),
    "noise coils": (
        lambda lines: [*lines, Line(noise((3, 99)), flags=(19,))],
        "active_channels",
        "noise readouts of 2 coils",
        "[3]",
    ),
    "slices": (lambda lines: lines[1:], "kspace_encode_step_1", "same sampling", "slice 1"),
    "nothing": (lambda lines: [], "dataset/data", "imaging readouts", "none of 1"),
    "nan": (_change(1, data=np.full((2, 8), np.nan)), "kspace", "finite", "16 not finite"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_ismrmrd_that_cannot_be_used(tmp_path, case):
    change, key, *words = BAD_LINES[case]
    lines = change(cartesian_lines(noise((2, 2, 8, 6))))
    # ismrmrd makes no table without any line.
    lines.append(Line(noise((2, 8)), flags=(27,)))
    path = write_ismrmrd(tmp_path / "a.h5", XML, lines)
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, key, *words)


def test_ismrmrd_samples_that_contradict_their_header(tmp_path):
    path = write_ismrmrd(tmp_path / "a.h5", XML, cartesian_lines(noise((1, 2, 8, 6))))
    with h5py.File(path, "a") as file:
        row = file["dataset/data"][2]
        row["data"] = row["data"][:-3]
        file["dataset/data"][2] = row
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "data[2].data", "32 floats", "29")


def test_ismrmrd_without_table(tmp_path):
    path = write_ismrmrd(tmp_path / "a.h5", XML, cartesian_lines(noise((1, 2, 8, 6))))
    with h5py.File(path, "a") as file:
        del file["dataset/data"]
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "dataset/data", "a dataset of this name", "/dataset holds: xml")


def test_ismrmrd_heads_without_their_fields(tmp_path):
    path = write_ismrmrd(tmp_path / "a.h5", XML, cartesian_lines(noise((1, 2, 8, 6))))
    with h5py.File(path, "a") as file:
        del file["dataset/data"]
        file["dataset/data"] = np.zeros(3, [("head", "i4"), ("traj", "f4"), ("data", "f4")])
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "dataset/data/head", "the fields of ISMRMRD", "active_channels")


# --- geometry -----------------------------------------------------------------------------------


def test_ismrmrd_affine_puts_the_centre_pixel_at_the_slice_position(tmp_path):
    angle = 0.3
    read = (math.cos(angle), math.sin(angle), 0.0)
    phase = (-math.sin(angle), math.cos(angle), 0.0)
    xml = header_xml(
        (16, 6, 1),
        (8, 6, 1),
        encoded_fov=(32.0, 18.0, 5.0),
        recon_fov=(16.0, 18.0, 5.0),
        limits=(5, 3),
    )
    lines = []
    for number, z in enumerate((20.0, 14.0, 8.0)):  # numbered against the slice direction
        head = {
            "position": (10.0, -20.0, z),
            "read_dir": read,
            "phase_dir": phase,
            "slice_dir": (0.0, 0.0, 1.0),
        }
        data = noise((1, 2, 16, 6), seed=number)
        lines += [dataclasses.replace(x, slice=number) for x in cartesian_lines(data, head=head)]
    record = read_kspace(write_ismrmrd(tmp_path / "a.h5", xml, lines))
    assert record.voxel_size_mm == pytest.approx((2.0, 3.0, 6.0))
    affine = record.affine.numpy()
    for k, z in enumerate((8.0, 14.0, 20.0)):
        center = affine @ (4, 3, k, 1)
        assert center[:3] == pytest.approx((-10.0, 20.0, z), abs=1e-5)  # LPS to RAS
    step = affine @ (5, 3, 0, 1) - affine @ (4, 3, 0, 1)
    assert step[:3] == pytest.approx((-2 * read[0], -2 * read[1], 0.0), abs=1e-5)
    first = torch.from_numpy(noise((1, 2, 16, 6), seed=2))
    expected = center_crop(ifft2c(first), (8, 6))
    torch.testing.assert_close(record.kspace[:1], fft2c(expected))
    assert "slices sorted by position: [2, 1, 0]" in record.notes


@pytest.mark.parametrize(
    ("positions", "word"),
    [
        ((0.0, 5.0, 11.0), "equally spaced"),
        ((0.0, math.nan, 11.0), "not finite"),
        (None, "orthonormal"),
    ],
)
def test_orientation_is_left_out_rather_than_guessed(tmp_path, positions, word):
    xml = header_xml(
        (8, 6, 1), (8, 6, 1), encoded_fov=(8, 6, 5), recon_fov=(8, 6, 5), limits=(5, 3)
    )
    lines = []
    for number in range(3):
        head = {}
        if positions:
            head = {
                "position": (0.0, 0.0, positions[number]),
                "read_dir": (1.0, 0.0, 0.0),
                "phase_dir": (0.0, 1.0, 0.0),
                "slice_dir": (0.0, 0.0, 1.0),
            }
        data = noise((1, 2, 8, 6))
        lines += [dataclasses.replace(x, slice=number) for x in cartesian_lines(data, head=head)]
    record = read_kspace(write_ismrmrd(tmp_path / "a.h5", xml, lines))
    assert record.affine is None
    assert any(word in note for note in record.notes)


# --- ISMRMRD, radial ----------------------------------------------------------------------------

RADIAL = header_xml((16, 16, 1), (8, 10, 1), trajectory="radial")


def radial_lines(trajectory, slices=2, coils=3):
    spokes, samples = trajectory.shape[:2]
    data = noise((slices, coils, spokes, samples))
    lines = [
        Line(data[s, :, k], step=k, slice=s, traj=trajectory[k])
        for k in range(spokes)
        for s in range(slices)
    ]
    return data, lines


def spokes_in_cycles(spokes=5, samples=16):
    angle = np.arange(spokes) * np.pi * 0.618
    radius = np.arange(samples) / samples - 0.5
    return np.stack([np.outer(np.cos(angle), radius), np.outer(np.sin(angle), radius)], -1)


@pytest.mark.parametrize(
    ("units", "scale"), [("cycles", 1.0), ("index", (8, 10)), ("radians", 2 * np.pi)]
)
def test_radial_units_are_given_never_guessed(tmp_path, units, scale):
    cycles = spokes_in_cycles()
    data, lines = radial_lines(cycles * np.asarray(scale))
    path = write_ismrmrd(tmp_path / "r.h5", RADIAL, lines)
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "trajectory_units", "cycles", "index", "radians", "None")
    record = read_ismrmrd(path, trajectory_units=units)
    assert np.array_equal(record.kspace.numpy(), data)
    assert record.image_shape == (8, 10)
    assert record.mask.shape == (5, 1)
    assert record.trajectory.numpy() == pytest.approx(2 * np.pi * cycles, abs=1e-5)
    with pytest.raises(ConfigError, match="furlongs"):
        read_ismrmrd(path, trajectory_units="furlongs")


def test_radial_units_from_the_header_and_out_of_range(tmp_path):
    extra = (
        "<trajectoryDescription><identifier>x</identifier><userParameterString>"
        "<name>trajectory_units</name><value>index</value></userParameterString>"
        "</trajectoryDescription>"
    )
    xml = header_xml((16, 16, 1), (8, 8, 1), trajectory="radial", extra=extra)
    path = write_ismrmrd(tmp_path / "r.h5", xml, radial_lines(8 * spokes_in_cycles())[1])
    assert float(read_kspace(path).trajectory.min()) == pytest.approx(-np.pi)
    with pytest.raises(DataError) as error:
        read_ismrmrd(path, trajectory_units="cycles")
    expect_error(error, path, "trajectory", "[-pi, pi]", "-25.13")


def test_radial_that_cannot_be_used(tmp_path):
    _, lines = radial_lines(spokes_in_cycles())
    cases = {
        "number_of_samples": lines[:-1],
        "traj": [*lines[:-1], dataclasses.replace(lines[-1], traj=0.9 * lines[-1].traj)],
        "trajectory_dimensions": [dataclasses.replace(line, traj=None) for line in lines],
        "idx.average": [*lines[:-1], dataclasses.replace(lines[-1], counters={"average": 1})],
    }
    for number, (key, bad) in enumerate(cases.items()):
        path = write_ismrmrd(tmp_path / f"{number}.h5", RADIAL, bad)
        with pytest.raises(DataError) as error:
            read_ismrmrd(path, trajectory_units="cycles")
        expect_error(error, path, key)
    epi = header_xml((16, 16, 1), (8, 10, 1), trajectory="epi")
    path = write_ismrmrd(tmp_path / "epi.h5", epi, lines)
    with pytest.raises(DataError) as error:
        read_kspace(path)
    expect_error(error, path, "trajectory", "radial", "epi")
