"""Training on transformers' and TRL's trainers: supervised fine-tuning and GRPO."""
