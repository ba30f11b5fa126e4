"""Records texts that published functions code-switch in code_switching.json, next to this file.

    python3.11 -m venv venv-code_switching
    venv-code_switching/bin/pip install -r tests/golden/requirements-code_switching.txt
    git clone https://github.com/mainlp/CodeSwitchCLIR
    git clone https://github.com/kodenii/CoSDA-ML
    venv-code_switching/bin/python tests/golden/record_code_switching.py CodeSwitchCLIR CoSDA-ML

The functions are `code_switch_bilingually` and `code_switch_multilingually`
(src/train_data/codeswitch_clwe.py) and `code_switch` (codeswitch_wiki_1.ipynb) of CodeSwitchCLIR,
and `cross_list` of CoSDA-ML (model/MLDoc/all.py). Only these functions of the files are run. Their
module `random` is replaced by the numbers of code_switching_case.py. The keys of the file are
"bilingual/<probability>", "multilingual/<probability>", "cosda/<probability>" and "wiki".
"""

import ast
import json
import os
import sys
import types

import code_switching_case as case
from nltk import everygrams

HERE = os.path.dirname(os.path.abspath(__file__))


class Numbers:
    """Takes the place of the module `random`: each word has its own numbers.

    Args:
        values: result of `case.numbers`.
        with_text: whether the first call of `random` is that of the text.
    """

    def __init__(self, values, with_text=False):
        self._values, self._with_text = values, with_text
        self._word, self._calls = -1, 0

    def random(self):
        """Returns the number that decides whether a text or the next word is replaced."""
        if self._with_text:
            self._with_text = False
            return self._values[0]
        self._word, self._calls = self._word + 1, 0
        return self._values[2 + 3 * self._word]

    def randint(self, low, high):
        """Returns the number of a language at the first call of a word, then of a translation."""
        self._calls += 1
        value = self._values[2 + 3 * self._word + self._calls]
        return low + int(value * (high - low + 1))


def load(source, names, **context):
    """Runs the definitions of functions or methods of a source file; returns a namespace."""
    nodes = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    assert {node.name for node in nodes} == set(names)
    namespace = {"Dict": dict, "List": list, **context}
    exec(compile(ast.Module(nodes, []), "published", "exec"), namespace)
    return namespace


def read(*parts):
    with open(os.path.join(*parts), encoding="utf-8") as file:
        return file.read()


def record_clir(folder, result):
    """Records bilingual and multilingual code-switching with lexicons of one translation."""
    names = ("code_switch_bilingually", "code_switch_multilingually")
    source = read(folder, "src", "train_data", "codeswitch_clwe.py")
    tables = {k: {w: t[0] for w, t in table.items()} for k, table in case.LEXICON.items()}
    for chance in case.PROBABILITIES:
        for name, key in zip(names, ("bilingual", "multilingual"), strict=True):
            texts = result[f"{key}/{chance}"] = []
            for i in case.TEXT_RANGE:
                numbers = case.numbers(i)
                context = {"random": Numbers(numbers), "en_stopwords": (), "count_all_words": True}
                function = load(source, names, **context)[name]
                # A text has one language, which is drawn once for a whole corpus in the paper.
                language = case.LANGUAGES[int(numbers[1] * len(case.LANGUAGES))]
                lexicon = tables[language] if key == "bilingual" else tables
                tokens, switched, kept = function(chance, lexicon, case.text(i).split())
                texts.append([" ".join(tokens), switched, switched + kept])


def record_cosda(folder, result):
    """Records code-switching with lexicons of several translations."""
    names = ("cross", "cross_str", "cross_list")
    source = read(folder, "model", "MLDoc", "all.py")
    for chance in case.PROBABILITIES[1:]:
        texts = result[f"cosda/{chance}"] = []
        for i in case.TEXT_RANGE:
            methods = load(source, names, random=Numbers(case.numbers(i), with_text=True))
            train = types.SimpleNamespace(cross=chance, ratio=case.TEXT_SHARE)
            arguments = types.SimpleNamespace(train=train, dict_list=case.LANGUAGES)
            words = types.SimpleNamespace(src2tgt=[case.LEXICON[k] for k in case.LANGUAGES])
            attributes = {"training": True, "args": arguments, "worddict": words}
            model = type("Model", (), {n: methods[n] for n in names} | attributes)()
            texts.append(model.cross_list([case.text(i)])[0].rstrip(" "))


def record_wiki(folder, result):
    """Records the replacement of phrases of up to three words."""
    notebook = json.loads(read(folder, "src", "train_data", "codeswitch_wiki_1.ipynb"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"]]
    (source,) = (cell for cell in cells if "def code_switch(" in cell)
    function = load(source, ("code_switch",), everygrams=everygrams, stp_wrds=())["code_switch"]
    texts = (case.phrase_text(i) for i in case.TEXT_RANGE)
    result["wiki"] = [function(text, case.PHRASES)[0] for text in texts]


def main(clir, cosda):
    """Writes code_switching.json. The arguments are the folders of the repositories."""
    result = {}
    record_clir(clir, result)
    record_cosda(cosda, result)
    record_wiki(clir, result)
    path = os.path.join(HERE, "code_switching.json")
    with open(path, "w", encoding="utf-8") as file:
        text = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
        file.write(text.replace('],"', '],\n"') + "\n")
    print(f"wrote {path}: {len(result)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
