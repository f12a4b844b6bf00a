import neuroscope as ns


def advice(call):
    """What to do, where neuroscope refuses a call."""
    try:
        call()
    except ns.NeuroscopeError as error:
        return error.do
    return None
