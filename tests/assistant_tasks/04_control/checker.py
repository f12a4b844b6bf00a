"""As many at every site, and three different draws."""


def check(found, folder):
    mask, controls = found["mask"], found["controls"]
    assert len(mask) == 102 and len(controls) == 3
    for control in controls:
        assert [len(control[address]) for address in mask] == [len(mask[address]) for address in mask]
        assert control != mask
    assert controls[0] != controls[1] != controls[2] != controls[0]
