"""Trains a student with the trainer of sentence-transformers, in an environment of its own.

    python benchmarks/sentence_transformers_peer.py SETTINGS

SETTINGS is a JSON object, see `benchmarks.distillation.measure_peer`. `worker.ScriptWorker` starts
the script, and describes the lines that it reads and prints. The method "turn" runs a number of
steps, and "matmul" multiplies two matrices with a number of rows.
"""

import json
import os
import sys
import tempfile
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
_STEPS = 1_000_000


def make_student(settings, folder):
    """Returns a `SentenceTransformer` with random weights: a BERT, [CLS], a linear projection."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    tokenizer = BertTokenizerFast(
        os.path.join(settings["folder"], "vocab.txt"), do_lower_case=False, strip_accents=False
    )
    layers, width, heads, feedforward_width = settings["sizes"]
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=feedforward_width,
        hidden_dropout_prob=settings["dropout"],
        attention_probs_dropout_prob=settings["dropout"],
        hidden_act="gelu_pytorch_tanh",
        max_position_embeddings=settings["tokens"],
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = Transformer(folder, max_seq_length=settings["tokens"])
    pooling = Pooling(width, "cls")
    dense = Dense(width, settings["width"], activation_function=None)
    return SentenceTransformer(modules=[transformer, pooling, dense], device="cpu")


class Turns:
    """Waits for commands between turns of training steps; see the module."""

    def __init__(self):
        self._steps, self._began, self._matrix = 0, 0.0, None

    def begin(self, facts):
        """Prints the description of the run, and waits for the first turn."""
        print(json.dumps(facts), flush=True)
        return self._wait()

    def step(self):
        """Counts a step; at the end of a turn, waits. Returns whether training ends."""
        self._steps -= 1
        if self._steps:
            return False
        self._answer(self._began)
        return self._wait()

    def _answer(self, began):
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)

    def _wait(self):
        import torch

        for line in sys.stdin:
            method, (number,) = json.loads(line)
            self._began = time.perf_counter()
            if method == "turn":
                self._steps = number
                return False
            if self._matrix is None:
                self._matrix = torch.randn(number, number)
                self._began = time.perf_counter()
            torch.matmul(self._matrix, self._matrix)
            self._answer(self._began)
        return True


def train(model, settings, folder):
    """Trains until standard input ends."""
    import datasets
    import numpy as np
    import sentence_transformers
    import torch
    import transformers
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MSELoss

    with open(os.path.join(settings["folder"], "sentences.json"), encoding="utf-8") as file:
        sentences = json.load(file)
    targets = np.random.default_rng(0).normal(size=(len(sentences), settings["width"]))
    dataset = datasets.Dataset.from_dict(
        {"sentence": sentences, "label": list(targets.astype(np.float32))}
    )
    turns = Turns()
    # The pooler of the BERT is not used and has no gradient.
    parameters = sum(p.numel() for name, p in model.named_parameters() if ".pooler." not in name)
    facts = {
        "parameters": parameters,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "sentence-transformers": sentence_transformers.__version__,
        },
        "threads": torch.get_num_threads(),
    }

    class Callback(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            control.should_training_stop = turns.begin(facts)

        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = turns.step()

    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder,
        max_steps=_STEPS,
        per_device_train_batch_size=settings["batch"],
        learning_rate=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["clip_norm"],
        lr_scheduler_type="constant",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=dataset, loss=MSELoss(model)
    )
    trainer.add_callback(Callback())
    trainer.train()


def main():
    import torch

    settings = json.loads(sys.argv[1])
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    # TensorFlow also flushes denormal numbers to 0.
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        train(make_student(settings, folder), settings, folder)


if __name__ == "__main__":
    main()
