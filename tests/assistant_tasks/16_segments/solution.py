import neuroscope as ns

cuts = ns.segment([0.95, 0.94, 0.96, 0.95, 0.6, 0.61, 0.59, 0.6, 0.2, 0.21, 0.19, 0.2]).boundaries
