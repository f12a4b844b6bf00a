"""The two jumps."""


def check(found, folder):
    assert list(found["cuts"]) == [4, 8]
