"""What a run came to, given to other tools and taken from them: TensorBoard, MLflow, Weights & Biases, OpenTelemetry.

All of them read `figures.taken`, which reads the views. Their libraries are optional, and imported where they are used.
"""
