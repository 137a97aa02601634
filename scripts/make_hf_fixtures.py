"""Writes the checkpoints and reference answers that the tests of Hugging Face folders compare with.

Usage: make_hf_fixtures.py OUT_FOLDER [MINILM_FOLDER]

Each fixture is a tiny model of random weights as `save_pretrained` leaves it (`config.json`, `model.safetensors`), and
`reference.safetensors` with inputs and what the reference library answers. With MINILM_FOLDER, the unpacked all-MiniLM-L6-v2,
its token ids and embeddings are written as well. Needs torch, transformers 4.30 and safetensors; made once, committed small.
"""

import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

WIDTH, INNER, LAYERS, HEADS, VOCABULARY, POSITIONS = 16, 24, 2, 2, 61, 40
SIZES = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
         "intermediate_size": INNER, "max_position_embeddings": POSITIONS}
LABELS = {"num_labels": 3, "id2label": {0: "low", 1: "middle", 2: "high"}, "label2id": {"low": 0, "middle": 1, "high": 2}}
FAMILIES = {
    "bert": ("Bert", transformers.BertConfig, SIZES),
    "roberta": ("Roberta", transformers.RobertaConfig, {**SIZES, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "distilbert": ("DistilBert", transformers.DistilBertConfig, {
        "vocab_size": VOCABULARY, "dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": INNER,
        "max_position_embeddings": POSITIONS}),
    "mpnet": ("MPNet", transformers.MPNetConfig, {**SIZES, "max_position_embeddings": 160}),
    "electra": ("Electra", transformers.ElectraConfig, {**SIZES, "embedding_size": 8}),
    "xlm-roberta": ("XLMRoberta", transformers.XLMRobertaConfig, {**SIZES, "type_vocab_size": 1}),
}
KINDS = {"model": "Model", "qa": "ForQuestionAnswering", "sequence": "ForSequenceClassification",
         "token": "ForTokenClassification", "mlm": "ForMaskedLM", "discriminator": "ForPreTraining"}
# One of each family and head, then the settings that change the graph.
CASES = [(family, kind, {}) for family in ("bert", "roberta", "distilbert", "mpnet", "electra")
         for kind in ("model", "qa", "sequence", "token", "mlm")]
CASES += [
    ("xlm-roberta", "sequence", {"problem_type": "multi_label_classification"}),
    ("electra", "discriminator", {}),
    ("electra", "sequence", {"embedding_size": WIDTH, "hidden_act": "relu", "variant": "relu"}),
    ("bert", "mlm", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "variant": "gelu-new"}),
    ("roberta", "model", {"pad_token_id": 5, "variant": "pad-5"}),
    *[("xlm-roberta", kind, {}) for kind in ("model", "qa", "token", "mlm")],
]
SENTENCES = [("bert", "mean", True), ("roberta", "cls", False), ("distilbert", "max", True), ("mpnet", "mean", False)]
# Items of these lengths make a batch, padded to the longest.
LENGTHS = (11, 4, 1)


def spread(model, seed):
    """Weights large enough for every part of the model to show in its answer; training starts with smaller ones."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=random)
            if "LayerNorm.weight" in name or "layer_norm.weight" in name:
                weight.copy_(1 + 0.2 * noise)
            else:
                weight.copy_(noise * (0.35 if weight.dim() == 2 else 0.2))
    return model.eval()


def checkpoint(model, folder):
    """The weights as `save_pretrained` writes them: a tensor that two modules share once, under its first name."""
    seen, tensors = set(), {}
    for name, weight in model.state_dict().items():
        if weight.data_ptr() in seen or name.endswith("position_ids"):
            continue
        seen.add(weight.data_ptr())
        tensors[name] = weight.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def inputs(family, lengths, pad):
    """A padded batch: ids that are never the padding's, a mask, and token types where the family takes them."""
    longest = max(lengths)
    random = torch.Generator().manual_seed(longest)
    ids = torch.full((len(lengths), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(6, VOCABULARY, (length,), generator=random)
        mask[row, :length] = 1
    given = {"input_ids": ids, "attention_mask": mask}
    if family in ("bert", "electra"):
        given["token_type_ids"] = (torch.arange(longest) >= longest // 2).long().expand_as(ids).contiguous()
    return given


def write_reference(folder, given, answers):
    tensors = {f"input.{name}": tensor.contiguous() for name, tensor in given.items()}
    tensors |= {f"output.{name}": tensor.detach().contiguous() for name, tensor in answers.items()}
    save_file(tensors, folder / "reference.safetensors")


def build(out, family, kind, settings, seed):
    """One fixture; returns its folder, its model and its inputs."""
    class_name, config_class, sizes = FAMILIES[family]
    settings = dict(settings)
    variant = settings.pop("variant", None)
    labels = LABELS if kind in ("sequence", "token") else {}
    config = config_class(**{**sizes, **labels, **settings})
    model_class = getattr(transformers, class_name + KINDS[kind])
    model = spread(model_class(config), seed)
    folder = out / "-".join(filter(None, (family, kind, variant)))
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [model_class.__name__]
    config.save_pretrained(folder)
    checkpoint(model, folder)
    pad = config.pad_token_id
    # Far positions fall into other buckets of MPNet's relative bias.
    lengths = (150, 40, 1) if family == "mpnet" and kind == "model" else LENGTHS
    return folder, model, inputs(family, lengths, pad)


def pooled(tokens, mask, mode, normalise):
    """The pooling and normalising modules of sentence-transformers."""
    wide = mask.unsqueeze(-1).expand(tokens.size()).float()
    if mode == "cls":
        vector = tokens[:, 0]
    elif mode == "max":
        vector = torch.where(wide == 0, torch.full_like(tokens, -1e9), tokens).max(1)[0]
    else:
        vector = (tokens * wide).sum(1) / wide.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(vector, p=2, dim=1) if normalise else vector


def sentence(out, family, mode, normalise, seed):
    folder, model, given = build(out, family, "model", {"variant": f"sentence-{mode}"}, seed)
    types = ["Transformer", "Pooling"] + ["Normalize"] * normalise
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [{"idx": index, "name": str(index), "path": paths[index], "type": f"sentence_transformers.models.{kind}"}
               for index, kind in enumerate(types)]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    pooling = {"word_embedding_dimension": WIDTH} | {f"pooling_mode_{name}": key == mode for key, name in modes.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2))
    tokens = model(**given).last_hidden_state
    write_reference(folder, given, {"sentence_embedding": pooled(tokens, given["attention_mask"], mode, normalise)})


def minilm(out, source):
    """Real sentences through the real model; only ids and embeddings are kept."""
    model = transformers.AutoModel.from_pretrained(source).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    texts = ["A man crosses the car park.", "Somebody walks over a parking lot.", "Interest rates rose again.", "Hello"]
    given = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    tokens = model(**given).last_hidden_state
    folder = out / "minilm"
    folder.mkdir(parents=True, exist_ok=True)
    write_reference(folder, given, {"sentence_embedding": pooled(tokens, given["attention_mask"], "mean", True)})


def main():
    out = pathlib.Path(sys.argv[1])
    with torch.no_grad():
        for seed, (family, kind, settings) in enumerate(CASES):
            folder, model, given = build(out, family, kind, settings, seed)
            answer = model(**given)
            names = {"model": ["last_hidden_state"], "qa": ["start_logits", "end_logits"]}.get(kind, ["logits"])
            write_reference(folder, given, {name: answer[name] for name in names})
        for seed, (family, mode, normalise) in enumerate(SENTENCES, start=100):
            sentence(out, family, mode, normalise, seed)
        if len(sys.argv) > 2:
            minilm(out, sys.argv[2])


if __name__ == "__main__":
    main()
