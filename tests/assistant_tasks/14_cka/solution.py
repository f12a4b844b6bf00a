import numpy as np

import neuroscope as ns

value = float(ns.similarity.cka(np.load("x.npy"), np.load("y.npy"), debiased=False))
