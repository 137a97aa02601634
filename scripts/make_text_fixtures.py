"""Writes the models, tokenizers and reference answers that the tests of text tasks compare with.

Usage: make_text_fixtures.py OUT_FOLDER MINILM_FOLDER

OUT_FOLDER gets `tokenizers/` (WordPiece, byte-level BPE and Unigram, trained on the texts below), `models/` (tiny models of
random weights as `save_pretrained` leaves them, without a tokenizer), and one file of cases a task: what was asked of which
model with which tokenizer, and what the pipeline of the reference library answered. Embeddings are those of the real
all-MiniLM-L6-v2. A case whose answer hangs on a difference of less than 1e-3 is left out: another order of additions would turn
it. Needs torch, transformers 4.30 and tokenizers 0.13; made once, committed small.
"""

import json
import pathlib
import random
import sys
import unicodedata

import numpy
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

# Each line is a text of its own; between them they have what tokenizers and offsets stumble over.
TEXTS = [
    "The packhorse carried wool over the pass before the road was built.",
    "Anna Keller left Basel on a Tuesday and reached Milan nine days later.",
    "Nobody in Trondheim knew why the bell rang at half past four!",
    "Rain fell on the market; the baker's awning didn't hold, so they moved inside.",
    "In 1847 the mill ground 3,200 sacks of rye, 14% more than the year before.",
    "Write to post@example.org or see https://example.org/a?b=1#c for the timetable.",
    "A café in Zürich serves crème brûlée, jalapeños and Gewürztraminer.",
    unicodedata.normalize("NFD", "A café in Zürich serves crème brûlée, jalapeños and Gewürztraminer."),
    unicodedata.normalize("NFD", "Đặng Thị Hương đến Huế vào mùa xuân."),
    "İstanbul'da IŞIK söndü; ılık bir rüzgâr esti.",
    "Die Straße nach Gießen war gesperrt, also fuhren wir über Weißenburg.",
    "Вьючная лошадь несла соль через перевал, и Анна шла рядом.",
    "Ο Νίκος έφυγε από την Αθήνα χωρίς να πει λέξη.",
    "خرجت القافلة من دمشق قبل الفجر ووصلت إلى حلب بعد خمسة أيام.",
    "قَالَتْ سَلْمَى إِنَّ الْجَبَلَ بَعِيدٌ.",
    "הרוכל יצא מירושלים ביום שלישי והגיע ליפו בערב.",
    "בְּרֵאשִׁית הָיָה הַדֶּרֶךְ אָרֹךְ.",
    "घोड़ा नमक लेकर पहाड़ के पार गया और शाम को लौटा।",
    "ม้าบรรทุกเกลือข้ามภูเขาไปเชียงใหม่ตอนเช้า",
    "馬幫從昆明出發，翻過山口，第七天到了大理。",
    "商人は京都を出て、雪の峠を越え、三日後に金沢へ着いた。",
    "말은 소금을 지고 고개를 넘어 안동에 도착했다.",
    unicodedata.normalize("NFD", "말은 소금을 지고 고개를 넘어 안동에 도착했다."),
    "She waved 👋🏽 from the train 🚂 and the whole family 👨‍👩‍👧‍👦 waved back 🎉🎉.",
    "Flags 🇨🇭🇳🇴 hung over the door; it was 25 °C and ½ past ﬁve.",
    "Emoji first: 🐴🐴 carry ❤️ and ✉️ – no cart needed.",
    "𝔗𝔥𝔢 sign said ＨＥＬＬＯ in wide letters and x² + y² = z².",
    "Tabs\tand  double  spaces\nand new lines\r\nare   kept   where they are .",
    "Zero\u200bwidth\u200bspaces, soft\u00adhyphens and a \u202bright-to-left mark\u202c hide in here.",
    "Odd ones: a\u0301\u0323\u0308 stack, a lone \u0301 mark, \ufffd and a \u00a0 hard space.",
    "Dr. O'Neill-Smith (b. 1902, d. 1999) taught \"applied ostlery\" at St. Gallen.",
    "The ferry to Tórshavn, if it sails, leaves at 06:15; otherwise ask for Jóannes.",
    "Oats, hay, oats, hay: that is what Bella eats, and what else would she eat?",
    "He said: 'Don't.' They've gone, we're late, I'm tired, she'll wait, he'd stay.",
    "Supercalifragilistic antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis.",
    "Market prices in Lisbon rose by €3.50 (£3.01) on Friday, said Marta Sousa of the port office.",
]
QUESTIONS = [
    "Who left the town?", "What did the horse carry?", "Where is the market?", "When did they arrive?", "Why?",
    "How many sacks were there in 1847?", "Wer ging über den Pass?", "Куда пришла Анна?", "من أين خرجت القافلة؟",
    "מי הגיע ליפו?", "घोड़ा क्या ले गया?", "馬幫到了哪裡？", "商人はどこへ着いた？", "말은 무엇을 지고 갔나?", "Was it 👋🏽 or 🎉?",
    unicodedata.normalize("NFD", "Où est le café à Zürich?"), "What   is\there ?", "İstanbul nerede?",
]
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
WEIGHT = 0.5
ENTITIES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
# Closer candidates than this are told apart by rounding alone.
MARGIN = 1e-3


# --- tokenizers ---

def special(tokens):
    return [tokenizers.AddedToken(token, lstrip=token == "<mask>", normalized=False) for token in tokens]


def wordpiece(corpus):
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=marks, limit_alphabet=260, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")])
    return tokenizer, {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True,
        "model_max_length": 512, "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
        "mask_token": "[MASK]"}


def roberta_marks(tokenizer, trim):
    ids = {mark: tokenizer.token_to_id(mark) for mark in ("<s>", "</s>")}
    return processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=trim,
                                        add_prefix_space=False)


def byte_level(corpus):
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special(marks), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = roberta_marks(tokenizer, True)
    return tokenizer, {
        "tokenizer_class": "RobertaTokenizer", "model_max_length": 512, "add_prefix_space": False, "trim_offsets": True,
        "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "bos_token": "<s>",
        "eos_token": "</s>", "mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False,
                                            "single_word": False, "normalized": False}}


def unigram(corpus):
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", add_prefix_space=True)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", add_prefix_space=True)
    trainer = trainers.UnigramTrainer(vocab_size=700, special_tokens=special(marks), unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(mark, tokenizer.token_to_id(mark)) for mark in ("<s>", "</s>")])
    return tokenizer, {
        "tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512, "unk_token": "<unk>", "sep_token": "</s>",
        "pad_token": "<pad>", "cls_token": "<s>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}


TOKENIZERS = {"wordpiece": wordpiece, "bytes": byte_level, "unigram": unigram}
CLASSES = {"wordpiece": transformers.BertTokenizerFast, "bytes": transformers.RobertaTokenizerFast,
           "unigram": transformers.XLMRobertaTokenizerFast}


def make_tokenizer(out, kind):
    tokenizer, config = TOKENIZERS[kind](TEXTS + QUESTIONS)
    folder = out / "tokenizers" / kind
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return CLASSES[kind].from_pretrained(folder)


# --- models ---

MODELS = {
    "bert-qa": ("wordpiece", transformers.BertConfig, transformers.BertForQuestionAnswering, {}),
    "bert-sequence": ("wordpiece", transformers.BertConfig, transformers.BertForSequenceClassification,
                      {"labels": ["bad", "fair", "good", "best"]}),
    "bert-many": ("wordpiece", transformers.BertConfig, transformers.BertForSequenceClassification,
                  {"labels": ["wet", "cold", "far"], "problem_type": "multi_label_classification"}),
    "bert-one": ("wordpiece", transformers.BertConfig, transformers.BertForSequenceClassification, {"labels": ["LABEL_0"]}),
    "bert-token": ("wordpiece", transformers.BertConfig, transformers.BertForTokenClassification, {"labels": ENTITIES}),
    "bert-mlm": ("wordpiece", transformers.BertConfig, transformers.BertForMaskedLM, {}),
    "roberta-qa": ("bytes", transformers.RobertaConfig, transformers.RobertaForQuestionAnswering, {}),
    "roberta-token": ("bytes", transformers.RobertaConfig, transformers.RobertaForTokenClassification, {"labels": ENTITIES}),
    "roberta-mlm": ("bytes", transformers.RobertaConfig, transformers.RobertaForMaskedLM, {}),
    "xlm-qa": ("unigram", transformers.XLMRobertaConfig, transformers.XLMRobertaForQuestionAnswering, {}),
    "xlm-token": ("unigram", transformers.XLMRobertaConfig, transformers.XLMRobertaForTokenClassification,
                  {"labels": ENTITIES}),
}


def spread(model, seed):
    """Weights large enough for answers to differ clearly; training starts with smaller ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "LayerNorm.weight" in name or "layer_norm.weight" in name:
                weight.copy_(1 + 0.2 * noise)
            elif "embeddings" in name:
                weight.copy_(noise)
            else:
                weight.copy_(noise * (WEIGHT if weight.dim() == 2 else 0.2))
    return model.eval()


def make_model(out, name, tokenizer, seed):
    _, config_class, model_class, settings = MODELS[name]
    settings = dict(settings)
    labels = settings.pop("labels", None)
    if labels:
        settings |= {"num_labels": len(labels), "id2label": dict(enumerate(labels)),
                     "label2id": {label: index for index, label in enumerate(labels)}}
    positions = 512 if config_class is transformers.BertConfig else 514
    config = config_class(vocab_size=len(tokenizer), max_position_embeddings=positions, pad_token_id=tokenizer.pad_token_id,
                          **SIZES, **settings)
    if config_class is not transformers.BertConfig:
        config.type_vocab_size = 1
    model = spread(model_class(config), seed)
    folder = out / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [model_class.__name__]
    config.save_pretrained(folder)
    seen, tensors = set(), {}
    for key, weight in model.state_dict().items():
        if weight.data_ptr() not in seen and not key.endswith("position_ids"):
            seen.add(weight.data_ptr())
            tensors[key] = weight.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return model


# --- cases ---

def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (float, numpy.floating)):
        return float(numpy.float32(value))
    return int(value) if isinstance(value, numpy.integer) else value


def close(scores):
    """Whether two neighbours in a list of scores, best first, are too close to be told apart."""
    return any(a - b < MARGIN * a for a, b in zip(scores, scores[1:]))


def context(chooser, count):
    return " ".join(chooser.choice(TEXTS) for _ in range(count))


def question_answering(pipes):
    chooser, cases = random.Random(7), []
    options = [{}, {}, {"top_k": 3}, {"max_answer_len": 4}, {"handle_impossible_answer": True}, {"align_to_words": False},
               {"max_seq_len": 64, "doc_stride": 16}, {"max_seq_len": 48, "doc_stride": 0, "top_k": 2},
               {"max_seq_len": 96, "handle_impossible_answer": True, "top_k": 4}]
    names = ["bert-qa", "roberta-qa", "xlm-qa"]
    while len(cases) < 210:
        at = len(cases)
        name, asked = names[at % 3], options[(at // 3) % len(options)]
        count = 1 if at < 105 else chooser.choice([1, 2, 3, 24])
        text = TEXTS[(at // 3) % len(TEXTS)] if at < 105 else context(chooser, count)
        question = chooser.choice(QUESTIONS)
        # One more than is asked for shows how close the next one is.
        wider = {**asked, "top_k": asked.get("top_k", 1) + 1}
        found = pipes[name](question=question, context=text, **wider)
        found = found if isinstance(found, list) else [found]
        # Two windows may see the very same passage; that is no question of rounding.
        if close([answer["score"] for answer in found]) or not text.strip():
            chooser.random()
            if at < 105 and chooser.random() < 0.2:
                cases.append(None)
            continue
        answer = pipes[name](question=question, context=text, **asked)
        cases.append({"model": name, "question": question, "context": text, "options": asked, "answer": plain(answer)})
    return [case for case in cases if case][:210]


def classification(pipes):
    chooser, cases = random.Random(11), []
    for at, text in enumerate(TEXTS):
        for name, asked in [("bert-sequence", [{}, {"top_k": 3}, {"function_to_apply": "none", "top_k": 2}][at % 3]),
                            ("bert-many", {"top_k": 3}), ("bert-one", {})]:
            pair = chooser.choice(TEXTS) if at % 4 == 3 else None
            given = {"text": text, "text_pair": pair} if pair else text
            answer = pipes[name](given, **asked)
            if "top_k" in asked:
                answer = answer[0] if isinstance(answer[0], list) else answer
                if close([item["score"] for item in answer]):
                    continue
            else:
                answer = answer[0] if isinstance(answer, list) else answer
            cases.append({"model": name, "text": text, "text_pair": pair, "options": asked, "answer": plain(answer)})
    return cases


def close_classes(pipe, text):
    """Whether some token's best two classes are too close."""
    with torch.no_grad():
        logits = pipe.model(**pipe.tokenizer(text, return_tensors="pt", truncation=True)).logits[0]
    best = logits.softmax(-1).topk(2).values
    return bool((best[:, 0] - best[:, 1] < 2e-3).any())


def token_classification(pipes):
    chooser, cases = random.Random(13), []
    strategies = ["none", "simple", "first", "average", "max"]
    for name in ("bert-token", "roberta-token", "xlm-token"):
        for at, text in enumerate(TEXTS):
            if close_classes(pipes[name], text):
                continue
            strategy = strategies[at % 5]
            asked = {"aggregation_strategy": strategy}
            if at % 7 == 6:
                asked["ignore_labels"] = ["O", "MISC"]
            cases.append({"model": name, "text": text, "options": asked, "answer": plain(pipes[name](text, **asked))})
    # Texts longer than a row, in windows, as the reference has it for tokenizers that know words.
    for at in range(6):
        text, strategy = context(chooser, 24), strategies[1 + at % 4]
        pipe = transformers.pipeline("token-classification", model=pipes["bert-token"].model,
                                     tokenizer=pipes["bert-token"].tokenizer, aggregation_strategy=strategy, stride=64)
        answer = pipe(text)
        cases.append({"model": "bert-token", "text": text, "options": {"aggregation_strategy": strategy, "stride": 64},
                      "answer": plain(answer)})
    return cases


def fill_mask(pipes):
    chooser, cases = random.Random(17), []
    for name in ("bert-mlm", "roberta-mlm"):
        mask = pipes[name].tokenizer.mask_token
        for at, text in enumerate(TEXTS):
            words = text.split(" ")
            for _ in range(2 if at % 9 == 8 else 1):
                words[chooser.randrange(len(words))] = mask
            holed = " ".join(words)
            asked = [{}, {"top_k": 2}, {"top_k": 1}, {"targets": ["the", "horse", "and"]}][at % 4]
            wider = dict(asked) if "targets" in asked else {"top_k": asked.get("top_k", 5) + 1}
            found = pipes[name](holed, **wider)
            holes = found if isinstance(found[0], list) else [found]
            if any(close([item["score"] for item in hole]) for hole in holes):
                continue
            cases.append({"model": name, "text": holed, "options": asked, "answer": plain(pipes[name](holed, **asked))})
    return cases


def embedding(minilm):
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    chooser = random.Random(19)
    texts = [TEXTS[0], TEXTS[1], TEXTS[6], TEXTS[13], TEXTS[23], context(chooser, 24)]
    vectors = []
    for text in texts:
        given = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            tokens = model(**given).last_hidden_state
        vectors.append(torch.nn.functional.normalize(tokens.mean(1), p=2, dim=1)[0])
    pairs = [{"text": texts[a], "text_pair": texts[b], "score": float(vectors[a] @ vectors[b])}
             for a, b in [(0, 1), (0, 4), (2, 3), (1, 5)]]
    return {"vectors": [{"text": text, "vector": [round(float(value), 7) for value in vector]}
                        for text, vector in zip(texts, vectors)], "pairs": pairs}


def main():
    out, minilm = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    tokens = {kind: make_tokenizer(out, kind) for kind in TOKENIZERS}
    kinds = {"qa": "question-answering", "sequence": "text-classification", "many": "text-classification",
             "one": "text-classification", "token": "token-classification", "mlm": "fill-mask"}
    pipes = {}
    for seed, (name, (kind, *_)) in enumerate(MODELS.items()):
        model = make_model(out, name, tokens[kind], seed)
        pipes[name] = transformers.pipeline(kinds[name.split("-")[1]], model=model, tokenizer=tokens[kind])
    for name, cases in [("question_answering", question_answering(pipes)), ("text_classification", classification(pipes)),
                        ("token_classification", token_classification(pipes)), ("fill_mask", fill_mask(pipes)),
                        ("embedding", embedding(minilm))]:
        lines = json.dumps(cases, ensure_ascii=True, indent=None)
        (out / f"{name}.json").write_text(lines.replace('}, {"model"', '},\n{"model"') + "\n")
        print(name, len(cases))


if __name__ == "__main__":
    main()
