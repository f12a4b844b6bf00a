"""Compare tasks and models: by parameters, by hidden states, by what predicts transfer; layer by layer."""

from neuroscope.comparison import similarity as similarity
