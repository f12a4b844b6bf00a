import neuroscope as ns

hooks = ns.interop.lens_hooks(ns.NeuronMask.of({0: [3, 7]}, ns.load("mini")))
