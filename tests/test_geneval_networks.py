"""GenEval's networks: the renaming of published checkpoints, and what stands before and after the network.

Against mmdetection 2.28.2 itself (its classes, `inference_detector`; random weights) this was compared once, outside the tests: see docs/geneval.md.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from vtbench.errors import BadWeights
from vtbench.extractors import mask2former as m2f
from vtbench.extractors.colours import CLIPColours, open_clip_names
from vtbench.extractors.colours import prepared as for_clip
from vtbench.extractors.detections import cut_out
from vtbench.extractors.mask2former_names import published, renamed, swin_order

pytest.importorskip("transformers")


def test_the_published_checkpoint_has_every_tensor_of_the_network_and_no_other():
    from transformers import Mask2FormerForUniversalSegmentation

    shapes = published()
    assert len(shapes) == 649
    assert sum(np.prod(s) for k, s in shapes.items() if not k.endswith("relative_position_index")) == 68_739_547
    given = renamed({k: torch.empty(s, device="meta") for k, s in shapes.items()})
    assert not any(name.startswith(("backbone.", "panoptic_head.")) for name in given)
    with torch.device("meta"):
        network = Mask2FormerForUniversalSegmentation(m2f.configuration())
    used = [p for k, p in network.named_parameters() if not k.endswith(m2f.UNUSED)]
    assert len(used) == len(given)
    assert sorted(tuple(p.shape) for p in used) == sorted(tuple(t.shape) for t in given.values())


def test_patch_merging_is_put_into_swins_order():
    """Unfold and Linear, as mmdetection merges, equal four strided slices and Linear, as Swin's authors do, once the features are reordered."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, 6)
    weight, scale, shift = torch.randn(10, 20), torch.randn(20), torch.randn(20)
    unfolded = torch.nn.functional.unfold(x, 2, stride=2).transpose(1, 2)
    theirs = torch.nn.functional.layer_norm(unfolded, (20,), scale, shift) @ weight.T
    pixels = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    swin = torch.cat(pixels, 1).flatten(2).transpose(1, 2)
    ours = torch.nn.functional.layer_norm(swin, (20,), swin_order(scale), swin_order(shift)) @ swin_order(weight).T
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, torch.nn.functional.layer_norm(swin, (20,), scale, shift) @ weight.T)


def test_the_resize_is_opencvs_to_the_byte():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    for height, width in ((512, 512), (333, 517), (1600, 1600), (64, 90), (31, 190), (2, 3), (801, 1000), (800, 900)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        size = m2f.fitting(height, width)
        wanted = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(m2f.linear_bytes(image, *size), wanted), (height, width)


@pytest.mark.parametrize(
    ("size", "inside", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((1024, 768), (1067, 800), (1088, 800)),
        ((100, 1000), (133, 1333), (160, 1344)),
    ],
)
def test_images_fit_and_are_padded_with_grey(size, inside, padded):
    image = np.full((*size, 3), 255, np.uint8)
    pixels, within = m2f.prepared(image)
    assert within == inside
    assert pixels.shape == (3, *padded)
    white = (255 - np.array(m2f.MEAN)) / np.array(m2f.STD)
    grey = (128 - np.array(m2f.MEAN)) / np.array(m2f.STD)
    np.testing.assert_allclose(pixels[:, 0, 0], white, rtol=1e-5)
    if padded != inside:
        np.testing.assert_allclose(pixels[:, -1, -1], grey, rtol=1e-4)


def reference_instances(classes, masks, padded, inside, size):
    """The definition, in one piece and without shortcuts: every pair's mask at full size."""
    likely = torch.softmax(classes, -1)[:, :-1]
    big = torch.nn.functional.interpolate(masks[None], padded, mode="bilinear", align_corners=False)[0]
    big = big[:, : inside[0], : inside[1]][:, None]
    big = torch.nn.functional.interpolate(big, size, mode="bilinear", align_corners=False)[:, 0]
    rows = []
    for q in range(len(likely)):
        on = big[q] > 0
        score = (big[q].sigmoid() * on).sum() / (on.sum() + 1e-6)
        ys, xs = torch.nonzero(on, as_tuple=True)
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(ys) else (0, 0, 0, 0)
        rows += [(float(likely[q, c] * score), c, *map(float, box), int(on.sum())) for c in range(likely.shape[1])]
    best = sorted(rows, reverse=True)
    return [r for r in best if r[0] > 0.3]


def test_instances_are_the_definitions():
    g = torch.Generator().manual_seed(3)
    for _ in range(5):
        classes = torch.randn(12, 6, generator=g) * 4
        masks = torch.randn(12, 8, 10, generator=g) * 4
        masks[0] = -1.0
        found = m2f.instances(classes, masks, (32, 40), (30, 37), (45, 55))
        wanted = reference_instances(classes, masks, (32, 40), (30, 37), (45, 55))
        assert len(found.scores) == len(wanted) > 0
        order = np.lexsort((found.classes, -found.scores))
        got = [(found.scores[i], found.classes[i], *found.boxes[i], found.masks[i].sum()) for i in order]
        np.testing.assert_allclose(np.array(got, float), np.array(wanted, float), rtol=1e-5)
        for box, mask in zip(found.boxes.astype(int), found.masks):
            outside = mask.copy()
            outside[box[1] : box[3], box[0] : box[2]] = False
            assert not outside.any()


def small_network():
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=7,
        out_features=[f"stage{i}" for i in range(1, 5)],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone, num_labels=80, feature_size=32, mask_feature_size=32, hidden_dim=32, num_queries=10,
        encoder_feedforward_dim=32, dim_feedforward=32, encoder_layers=1, decoder_layers=2, num_attention_heads=4,
    )  # fmt: skip
    torch.manual_seed(0)
    return Mask2FormerForUniversalSegmentation(config).eval(), config


def test_a_hub_checkpoint_is_loaded_whole_or_not_at_all(tmp_path):
    from safetensors.torch import load_file

    network, config = small_network()
    network.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    ours = m2f.network(state, config, "it")
    inputs = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        a, b = network(pixel_values=inputs), ours(pixel_values=inputs)
    assert torch.equal(a.class_queries_logits, b.class_queries_logits)
    assert torch.equal(a.masks_queries_logits, b.masks_queries_logits)
    without = {k: v for k, v in state.items() if k != "class_predictor.bias"}
    with pytest.raises(BadWeights, match=r"missing, such as class_predictor\.bias"):
        m2f.network(without, config, "it")
    with pytest.raises(BadWeights, match="unexpected"):
        m2f.network({**state, "backbone.x": torch.zeros(1)}, config, "it")
    with pytest.raises(BadWeights, match="does not fit"):
        m2f.network({**state, "class_predictor.bias": torch.zeros(7)}, config, "it")


def test_renamed_tensors_have_the_names_of_the_hubs_files(tmp_path):
    from safetensors import safe_open

    small_network()[0].save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        hub = {re.sub(r"\d+", "N", name) for name in file.keys() if not name.endswith(m2f.UNUSED)}  # noqa: SIM118
    ours = renamed({k: torch.empty(s, device="meta") for k, s in published().items()})
    assert {re.sub(r"\d+", "N", name) for name in ours} == hub


def test_detections_do_not_depend_on_their_neighbours(monkeypatch):
    monkeypatch.setattr(m2f, "LONG", 96)
    monkeypatch.setattr(m2f, "SHORT", 64)
    detector = m2f.Mask2Former()
    detector.use(small_network()[0])
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((30, 40), (60, 80), (40, 40))]
    detector._network.class_predictor.weight.mul_(300)
    together = detector.detect(images)
    for image, found in zip(images, together):
        (alone,) = detector.detect([image])
        assert np.array_equal(alone.classes, found.classes)
        np.testing.assert_allclose(alone.scores, found.scores, rtol=1e-4)


# ------------------------------------------------------------------------------------------------ colours


def test_transformers_clip_renamed_is_open_clips():
    open_clip = pytest.importorskip("open_clip")
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    text = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
    }
    text |= {"eos_token_id": 49407, "bos_token_id": 49406}
    torch.manual_seed(0)
    theirs = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)).eval()
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.2)
    ours = open_clip.CLIP(
        16,
        {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "mlp_ratio": 2.0},
        {"context_length": 77, "vocab_size": 49408, "width": 24, "layers": 2, "heads": 2},
        quick_gelu=True,
    ).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith("position_ids")}
    ours.load_state_dict(open_clip_names(state))
    assert open_clip_names(ours.state_dict()).keys() == ours.state_dict().keys()
    crop = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    namer = CLIPColours()
    namer.use(ours, open_clip.get_tokenizer("ViT-L-14"), side=32)
    (found,) = namer.colours([crop], ["dog"])
    with torch.inference_mode():
        image = theirs.get_image_features(pixel_values=torch.from_numpy(for_clip(crop, 32))[None])
        image = getattr(image, "pooler_output", image)
        means = []
        for colour in ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"):
            texts = [
                f"a photo of a {colour} dog",
                f"a photo of a {colour}-colored dog",
                f"a photo of a {colour} object",
            ]
            ids = open_clip.get_tokenizer("ViT-L-14")(texts)
            one = theirs.get_text_features(input_ids=ids)
            one = getattr(one, "pooler_output", one)
            means.append(torch.nn.functional.normalize(torch.nn.functional.normalize(one, dim=-1).mean(0), dim=0))
        wanted = 100 * torch.nn.functional.normalize(image, dim=-1) @ torch.stack(means).T
    np.testing.assert_allclose(found, wanted[0].numpy(), rtol=1e-4, atol=1e-3)


def test_detector_and_colours_together_give_rows_by_image(monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    from vtbench.api import Batch
    from vtbench.extractors.detections import HEADS, Detections

    monkeypatch.setattr(m2f, "LONG", 96)
    monkeypatch.setattr(m2f, "SHORT", 64)
    extractor = Detections({})
    network = small_network()[0]
    network.class_predictor.weight.data *= 300
    for layer in network.model.transformer_module.decoder.mask_predictor.mask_embedder.parameters():
        layer.data *= 3
    extractor.detector.use(network)
    torch.manual_seed(1)
    small = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 24, "layers": 1, "heads": 2}
    clip = open_clip.CLIP(16, small, text, quick_gelu=True)
    extractor.namer.use(clip, open_clip.get_tokenizer("ViT-L-14"), side=32)
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((30, 40), (60, 50))]
    rows = extractor(Batch([None, None], images=images), HEADS)
    where = rows["class"].image
    assert len(where) > 0 and set(where) <= {0, 1}
    assert rows["colour"].values.shape == (len(where), 10)
    assert rows["colour"].values.any(axis=1).all() and (rows["score"].values > 0.3).all()
    for at, (x0, y0, x1, y1) in zip(where, rows["box"].values):
        height, width = images[at].shape[:2]
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    without = extractor(Batch([None, None], images=images), ["class"])
    assert without.keys() == {"class"} and np.array_equal(without["class"].values, rows["class"].values)


@pytest.mark.parametrize("size", [(40, 50), (300, 180), (224, 224), (7, 900), (225, 301)])
def test_crops_are_prepared_as_open_clip_does(size):
    open_clip = pytest.importorskip("open_clip")
    from PIL import Image

    crop = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = open_clip.image_transform(
        224, is_train=False, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )
    np.testing.assert_allclose(for_clip(crop), theirs(Image.fromarray(crop)).numpy(), atol=1e-5)


def test_a_thing_is_cut_out_along_its_mask():
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    mask = np.zeros((6, 8), bool)
    mask[2, 3] = mask[3, 4] = True
    cut = cut_out(image, (3, 2, 5, 4), mask)
    assert cut.shape == (2, 2, 3)
    assert np.array_equal(cut[0, 0], image[2, 3]) and np.array_equal(cut[1, 1], image[3, 4])
    assert (cut[0, 1] == 0x99).all() and (cut[1, 0] == 0x99).all()
    assert np.array_equal(cut_out(image, (3, 2, 5, 4), mask, "original"), image[2:4, 3:5])
    assert cut_out(image, (0, 0, 0, 0), None).shape == (1, 1, 3)
