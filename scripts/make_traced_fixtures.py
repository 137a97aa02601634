"""Writes traced models of text tasks and reference answers, for the tests of texts into models that are loaded whole.

Usage: make_traced_fixtures.py TEXT_FIXTURES

TEXT_FIXTURES are what make_text_fixtures.py wrote: its tiny BERTs are traced as the packing system and TorchServe's users do,
into `traced/`: `NAME.pt` for TorchScript, `qa.onnx` for ONNX. What the pipelines of the reference library answer is in those
fixtures already, but for `pair.pt` (which is not told which of two texts a token belongs to) and `embed.pt`: their answers are
in `reference.json`. Needs torch 1.13 and transformers 4.30; made once, committed small.
"""

import json
import pathlib
import sys
import warnings
import zipfile

import torch
import transformers

LENGTH = 128
KINDS = {"bert-qa": transformers.BertForQuestionAnswering, "bert-sequence": transformers.BertForSequenceClassification,
         "bert-token": transformers.BertForTokenClassification, "bert-mlm": transformers.BertForMaskedLM}
NAMES = ["input_ids", "attention_mask", "token_type_ids"]
VECTORS = ["The pass is open.", "A packhorse carries wool over the pass.", "Nobody in Trondheim knew.", "Oats, hay, oats!"]


def inputs(count, length):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 600, (1, length), generator=generator)
    return (ids, torch.ones_like(ids), torch.zeros_like(ids))[:count]


def load(folder, kind):
    return kind.from_pretrained(folder, return_dict=False).eval()


def trace(model, out, count=3, length=LENGTH):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, inputs(count, length)), str(out))
    # Which line of Python each operation came from is half of the archive, and nobody reads it here.
    with zipfile.ZipFile(out) as archive:
        rest = [(entry, archive.read(entry)) for entry in archive.infolist() if not entry.filename.endswith(".debug_pkl")]
    with zipfile.ZipFile(out, "w") as archive:
        for entry, content in rest:
            archive.writestr(zipfile.ZipInfo(entry.filename), content, entry.compress_type)


def pair_answers(model, tokenizer, asked):
    """The answers to `asked` of a model that takes ids and a mask alone."""
    tokenizer.model_input_names = NAMES[:2]
    model.config.return_dict = True
    pipe = transformers.pipeline("question-answering", model=model, tokenizer=tokenizer)
    answers = []
    for case in asked:
        question, context = case["question"], case["context"]
        answers.append({"question": question, "context": context, "answer": pipe(question=question, context=context)})
    return answers


def vectors(model, tokenizer):
    """The mean of the tokens' vectors, scaled to length one, as sentence-transformers has it."""
    told = []
    for text in VECTORS:
        with torch.no_grad():
            tokens = model(**tokenizer(text, return_tensors="pt"))[0]
        vector = torch.nn.functional.normalize(tokens.mean(1), p=2, dim=1)[0]
        told.append({"text": text, "vector": [round(float(value), 7) for value in vector]})
    return told


def main():
    fixtures = pathlib.Path(sys.argv[1])
    out = fixtures / "traced"
    out.mkdir(exist_ok=True)
    tokenizer = transformers.BertTokenizerFast.from_pretrained(fixtures / "tokenizers" / "wordpiece")
    models = {name: load(fixtures / "models" / name, kind) for name, kind in KINDS.items()}
    for name, model in models.items():
        trace(model, out / f"{name.removeprefix('bert-')}.pt")
    trace(models["bert-qa"], out / "pair.pt", count=2)
    # It has no pooler; the one that it is given is there to be passed over.
    torch.manual_seed(0)
    encoder = load(fixtures / "models" / "bert-qa", transformers.BertModel)
    trace(encoder, out / "embed.pt")
    axes = {name: {0: "batch", 1: "sequence"} for name in [*NAMES, "start_logits", "end_logits"]}
    torch.onnx.export(models["bert-qa"], inputs(3, 8), out / "qa.onnx", input_names=NAMES,
                      output_names=["start_logits", "end_logits"], dynamic_axes=axes, opset_version=14)
    cases = json.loads((fixtures / "question_answering.json").read_text(encoding="utf-8"))
    asked = [case for case in cases if case["model"] == "bert-qa" and not case["options"] and len(case["context"]) < 200][:12]
    reference = {"vectors": vectors(encoder, tokenizer), "pairs": pair_answers(models["bert-qa"], tokenizer, asked)}
    (out / "reference.json").write_text(json.dumps(reference, ensure_ascii=True, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
