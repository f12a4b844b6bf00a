import neuroscope as ns

task = ns.Task.from_jsonl("reviews", prompt="sentiment {text} =>")
