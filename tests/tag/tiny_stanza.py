"""A folder of stanza models for tests: tokenizer and tagger trained for a moment, a parser with random weights."""

import json
import random
from pathlib import Path

_TREES = (
    "(ROOT (S (NP (DT The) (NN dog)) (VP (VBZ sees) (NP (DT a) (NN cat))) (. .)))",
    "(ROOT (S (NP (PRP I)) (VP (VBP sleep)) (. .)))",
    "(ROOT (S (NP (DT A) (NN cat)) (VP (VBZ sleeps) (PP (IN in) (NP (DT the) (NN house)))) (. .)))",
)
_UPOS = {"DT": "DET", "NN": "NOUN", "VBZ": "VERB", "VBP": "VERB", "PRP": "PRON", "IN": "ADP", ".": "PUNCT"}
_NAME = "tiny"


def build(folder: Path) -> None:
    """Write the models and ``resources.json``; the data they are made from go to ``folder/data``."""
    from stanza.models import constituency_parser, tagger, tokenizer
    from stanza.models.common.foundation_cache import FoundationCache
    from stanza.models.common.pretrain import Pretrain
    from stanza.models.constituency import parser_training, tree_reader

    data, english = folder / "data", folder / "en"
    for made in (data, *(english / name for name in ("tokenize", "pos", "constituency", "pretrain"))):
        made.mkdir(parents=True)
    trees = tree_reader.read_trees("\n".join(_TREES))
    sentences = [[(tree.children[0].label, tree.label) for tree in whole.yield_preterminals()] for whole in trees]
    _write_data(data, sentences)
    vectors = english / "pretrain" / f"{_NAME}.pt"
    Pretrain(str(vectors), str(data / "vectors.txt")).load()

    def options(kind: str, **values: object) -> list[str]:
        shared = {"mode": "train", "lang": "en", "shorthand": "en_tiny", "save_name": f"{_NAME}.pt"}
        every = {**shared, "save_dir": english / kind, **values}
        return [text for name, value in every.items() for text in (f"--{name}", str(value))]

    text, labels, conll = data / "text.txt", data / "labels.txt", data / "gold.conllu"
    asked = options(
        "tokenize",
        txt_file=text,
        label_file=labels,
        dev_txt_file=text,
        dev_label_file=labels,
        dev_conll_gold=conll,
        conll_file=data / "out.conllu",
        mwt_json_file=data / "mwt.json",
        steps=60,
        eval_steps=30,
        hidden_dim=8,
        emb_dim=8,
        batch_size=4,
        max_seqlen=60,
        lr0=0.02,
        dropout=0,
        unit_dropout=0,
    )
    tokenizer.main([*asked, "--no_use_mwt"])
    sizes = dict.fromkeys(
        ("hidden_dim", "char_hidden_dim", "deep_biaff_hidden_dim", "composite_deep_biaff_hidden_dim"), 8
    )
    sizes |= dict.fromkeys(("word_emb_dim", "char_emb_dim", "tag_emb_dim", "transformed_dim"), 4)
    steps = {"max_steps": 20, "eval_interval": 10, "batch_size": 10, "num_layers": 1}
    given = {"train_file": conll, "eval_file": conll, "wordvec_pretrain_file": vectors}
    tagger.main(options("pos", **given, **sizes, **steps))

    widths = ("transition_hidden_size", "transition_embedding_dim", "delta_embedding_dim", "tag_embedding_dim")
    small = {**dict.fromkeys(widths, 4), "hidden_size": 8, "num_lstm_layers": 1, "wordvec_pretrain_file": vectors}
    parsed = constituency_parser.parse_args(options("constituency", **small))
    trainer, *_ = parser_training.build_trainer(parsed, trees, trees, [], FoundationCache(), None)
    trainer.save(str(english / "constituency" / f"{_NAME}.pt"), save_optimizer=False)
    _write_resources(folder)


def _write_data(data: Path, sentences: list[list[tuple[str, str]]]) -> None:
    texts, labels, rows = [], [], []
    for words in sentences:
        text = " ".join(word for word, _ in words).replace(" .", ".")
        ends, at = ["0"] * len(text), 0
        rows.append(f"# text = {text}")
        for number, (word, tag) in enumerate(words, 1):
            at = text.index(word, at) + len(word)
            ends[at - 1] = "1"
            glued = "SpaceAfter=No" if text[at : at + 1] == "." else "_"
            role = "root" if number == 1 else "dep"
            rows.append(
                "\t".join(map(str, (number, word, word.lower(), _UPOS[tag], tag, "_", number - 1, role, "_", glued)))
            )
        ends[-1] = "2"
        rows.append("")
        texts.append(text)
        labels.append("".join(ends))
    (data / "text.txt").write_text(" ".join(texts) + "\n\n")
    (data / "labels.txt").write_text("0".join(labels) + "\n\n")
    (data / "gold.conllu").write_text("\n".join(rows) + "\n")
    (data / "mwt.json").write_text("[]")
    words = sorted({word for sentence in sentences for word, _ in sentence})
    draw = random.Random(0)
    vectors = [f"{word} " + " ".join(f"{draw.gauss(0, 1):.3f}" for _ in range(4)) for word in words]
    (data / "vectors.txt").write_text("\n".join([f"{len(words)} 4", *vectors]) + "\n")


def _write_resources(folder: Path) -> None:
    needs = {"md5": "0", "dependencies": [{"model": "pretrain", "package": _NAME}]}
    processors = dict.fromkeys(("tokenize", "pos", "constituency"), _NAME)
    listed = {
        "lang_name": "English",
        "tokenize": {_NAME: {"md5": "0"}},
        "pretrain": {_NAME: {"md5": "0"}},
        "pos": {_NAME: needs},
        "constituency": {_NAME: needs},
        "default_processors": processors,
        "default_dependencies": {},
        "packages": {"default": processors},
    }
    (folder / "resources.json").write_text(json.dumps({"en": listed}))
