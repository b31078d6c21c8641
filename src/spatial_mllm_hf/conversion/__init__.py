"""Checkpoints from one format to another: key tables, merge of the two backbones, public formats, verification."""
