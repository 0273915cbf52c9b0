"""What a selector is shown, and what comes of its answer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from ddp_pairs import Step, batch
from tiny_models import text_checkpoint, vision_checkpoint

from sagittal_core.errors import ConfigError
from sagittal_cxr.chexficient import CheXficient, _reference
from sagittal_cxr.curation.ledger import Ledger
from sagittal_cxr.curation.selector import Candidates, Selection, Selector
from sagittal_cxr.curator import Curator
from sagittal_cxr.objectives import InfoNCE, SigLIP
from sagittal_cxr.runs import save_image_text


class Listed(Selector):
    """Keeps listed rows and remembers what it was shown."""

    ratio = None
    reasons = ("listed", "not listed")
    needs_losses = True
    needs_reference = True

    def __init__(self, rows: list[int]) -> None:
        self.rows = torch.tensor(rows)
        self.shown: list[Candidates] = []
        self.updates = torch.tensor(0)

    def select(self, candidates: Candidates, *, step: int) -> Selection:
        self.shown.append(candidates)
        keep = torch.isin(candidates.rows, self.rows)
        return Selection(keep, (~keep).long())

    def update(self, candidates: Candidates, selection: Selection) -> None:
        self.updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {"updates": self.updates.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.updates = state["updates"].clone()


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Step:
    folder = tmp_path_factory.mktemp("checkpoints")
    vision_checkpoint(folder / "vision")
    text_checkpoint(folder / "text")
    return Step(folder, "InfoNCE")


def test_a_selector_sees_rows_without_dropout_and_both_models_losses(
    step: Step, tmp_path: Path
) -> None:
    network, pairs = step.model.network, batch(step, [4, 0, 2])
    selector = Listed([0, 4])
    curator = Curator(selector, network)
    curator.open(tmp_path / "curation")
    network.train()
    chosen = curator.choose(network, InfoNCE(), pairs, chunk=2)
    assert network.training
    assert network.text.network.training
    network.eval()
    assert (chosen.train.tolist(), chosen.kept) == ([True, True, False], 2)
    (shown,) = selector.shown
    assert shown.rows.tolist() == [4, 0, 2]
    with torch.no_grad():
        torch.testing.assert_close(shown.images, network.encode_image(pairs.images))
        texts = network.encode_text(pairs.input_ids, pairs.attention_mask)
        losses = InfoNCE().per_pair(shown.images, texts, network.logit_scale, None)
    torch.testing.assert_close(shown.texts, texts)
    for found in (shown.losses, shown.reference_losses):
        assert found is not None
        torch.testing.assert_close(found, losses)
    assert shown.reference_texts is not None
    assert (curator.forwards, curator.reference_forwards) == (3, 3)
    table = Ledger(tmp_path / "curation").decisions()
    assert table["row"].tolist() == [4, 0, 2]
    assert table["reason"].tolist() == ["listed", "listed", "not listed"]


def test_a_batch_without_kept_pairs_is_trained_on_whole_and_keeps_none(step: Step) -> None:
    curator = Curator(Listed([]), step.model.network)
    chosen = curator.choose(step.model.network, InfoNCE(), batch(step, [1, 3]), None)
    assert (chosen.train.tolist(), chosen.kept) == ([True, True], 0)
    assert len(curator.kept()) == 0
    module = CheXficient(step.model.network, selector=Listed([]))
    assert module.rows_to_train(0) is None
    with pytest.raises(ConfigError, match="kept no pair"):
        module.rows_to_train(1)


def test_the_state_comes_back(step: Step) -> None:
    curator = Curator(Listed([3, 1]), step.model.network)
    curator.choose(step.model.network, InfoNCE(), batch(step, [3, 5, 1]), None)
    again = Curator(Listed([3, 1]), step.model.network)
    again.load_state_dict(curator.state_dict())
    assert again.kept().tolist() == [1, 3]
    assert (again.steps, again.forwards, int(again.selector.state_dict()["updates"])) == (1, 3, 1)


def test_weights_get_gradients_after_a_decision_under_autocast(step: Step) -> None:
    step = Step(Path(step.model.network.text.path).parent, "InfoNCE").float()  # type: ignore[assignment]
    network, pairs = step.model.network, batch(step, [0, 1, 2])
    pairs = pairs._replace(images=pairs.images.float())
    curator = Curator(Listed([0, 1, 2]), network)
    with torch.autocast("cpu", torch.bfloat16):
        chosen = curator.choose(network, InfoNCE(), pairs, None)
        loss = step.model.loss(pairs, chosen.train)
    loss.backward()
    assert loss.dtype == torch.float32
    missing = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_settings_that_do_not_fit_are_refused(step: Step, tmp_path: Path) -> None:
    network = step.model.network
    with pytest.raises(ConfigError, match="logit_bias"):
        CheXficient(network, SigLIP())
    with pytest.raises(ConfigError, match="from 1"):
        CheXficient(network, curation_epochs=0)
    with pytest.raises(ConfigError, match="reference"):
        Curator(Listed([0])).choose(network, InfoNCE(), batch(step, [0, 1]), None)
    folder = Path(network.text.path).parent
    vision_checkpoint(tmp_path / "vision", side=35)
    text_checkpoint(tmp_path / "text")
    save_image_text(Step(tmp_path, "InfoNCE").model.network.float(), tmp_path / "other")
    with pytest.raises(ConfigError, match="images go through"):
        _reference(str(tmp_path / "other"), network)
    save_image_text(Step(folder, "InfoNCE").model.network.float(), tmp_path / "same")
    reference = _reference(str(tmp_path / "same"), network)
    assert not any(p.requires_grad for p in reference.parameters())
