import torch

from training import checkpoint


def trained_a_little(seed=0):
    torch.manual_seed(seed)
    layer = torch.nn.Linear(3, 2)
    weights = dict(layer.named_parameters())
    optimizer = torch.optim.AdamW(weights.values(), lr=0.1)
    layer(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return weights, optimizer


def test_restore_gives_back_what_was_saved(tmp_path):
    weights, optimizer = trained_a_little()
    saved = checkpoint.save(tmp_path, weights, optimizer, {"step": 7, "seconds": 1.5}, keep=2)
    assert saved.name == "step-000007"
    others, other_optimizer = trained_a_little(seed=1)
    assert checkpoint.restore(saved, others, other_optimizer) == {"step": 7, "seconds": 1.5}
    assert all(torch.equal(others[name], weights[name]) for name in weights)
    for ours, theirs in zip(optimizer.state.values(), other_optimizer.state.values(), strict=True):
        assert torch.equal(ours["exp_avg"], theirs["exp_avg"])


def test_old_ones_go_and_half_written_ones_are_not_seen(tmp_path):
    weights, optimizer = trained_a_little()
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, weights, optimizer, {"step": step}, keep=2)
    (tmp_path / ".step-000004.partial").mkdir()
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-000002", "step-000003"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000003"
    assert checkpoint.latest(tmp_path / "none") is None
