"""Scores of Spatial-MLLM on VSI-Bench, ScanQA and SQA3D. Answers and metrics need no torch."""
