"""The command `spatial-mllm`, one file for each verb."""
