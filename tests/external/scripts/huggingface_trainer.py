"""A language model with the Trainer of Hugging Face."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

set_seed(0)
config = GPT2Config(
    vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, attn_implementation="eager"
)
model = GPT2LMHeadModel(config)
tokens = [torch.randint(32, (16,)) for _ in range(64)]
trainer = Trainer(
    model,
    TrainingArguments(
        "out",
        max_steps=15,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=[{"input_ids": each, "labels": each} for each in tokens],
)
trainer.train()
torch.save(model.state_dict(), "state.pt")
