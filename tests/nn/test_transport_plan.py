import torch

from diptych.nn.transport import cosine_cost, ipot, transport


def slow_ipot(cost, beta, rounds):
    """One pair, no padding, as the paper writes it: C is n x m here (V x T), sigma over T, delta over V."""
    v, t = cost.shape
    sigma = [1 / t] * t
    plan = torch.ones(v, t, dtype=torch.float64)
    for _ in range(rounds):
        q = torch.exp(-cost / beta) * plan
        delta = [1 / (v * sum(q[i, j] * sigma[j] for j in range(t))) for i in range(v)]
        sigma = [1 / (t * sum(q[i, j] * delta[i] for i in range(v))) for j in range(t)]
        plan = torch.tensor([[delta[i] * q[i, j] * sigma[j] for j in range(t)] for i in range(v)], dtype=torch.float64)
    return plan


def example(seed=0):
    torch.manual_seed(seed)
    text, visual = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    text_mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0]]).bool()  # specials and padding are left out
    visual_mask = torch.tensor([[1] * 7, [0, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1]]).bool()
    return text, text_mask, visual, visual_mask


def test_plan_and_distance_equal_the_loop_row_by_row():
    text, text_mask, visual, visual_mask = example()
    found = transport(text, text_mask, visual, visual_mask, rounds=20)
    for b in range(3):
        t, v = text[b, text_mask[b]].double(), visual[b, visual_mask[b]].double()
        cost = 1 - torch.nn.functional.normalize(v, dim=-1) @ torch.nn.functional.normalize(t, dim=-1).T
        plan = slow_ipot(cost, 0.5, 20)
        torch.testing.assert_close(found.plan_BTV[b][text_mask[b]][:, visual_mask[b]].double(), plan.T, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.distance_B[b].double(), (cost * plan).sum(), atol=1e-5, rtol=1e-4)
    assert not found.plan_BTV[~(text_mask[:, :, None] & visual_mask[:, None])].any()


def test_plan_has_even_margins_and_finds_the_cheapest_assignment():
    """At equal sizes the best plan is a permutation over n: scipy-free, by trying all of them."""
    from itertools import permutations

    torch.manual_seed(1)
    text, visual = torch.randn(4, 5, 16), torch.randn(4, 5, 16)
    mask = torch.ones(4, 5, dtype=torch.bool)
    cost = cosine_cost(text, visual)
    plan = ipot(cost, mask, mask, beta=0.1, rounds=500)
    torch.testing.assert_close(plan.sum(1), torch.full((4, 5), 0.2), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(plan.sum(2), torch.full((4, 5), 0.2), atol=1e-3, rtol=1e-3)
    for b in range(4):
        best = min(sum(cost[b, i, p[i]].item() for i in range(5)) / 5 for p in permutations(range(5)))
        assert abs((cost[b] * plan[b]).sum().item() - best) < 2e-3


def test_gradient_goes_through_the_cost_alone():
    text, text_mask, visual, visual_mask = example()
    text.requires_grad_()
    found = transport(text, text_mask, visual, visual_mask)
    found.distance_B.sum().backward()
    again = text.detach().clone().requires_grad_()
    (cosine_cost(again, visual) * found.plan_BTV).sum().backward()
    torch.testing.assert_close(text.grad, again.grad)
    assert not text.grad[~text_mask].any()


def test_half_precision_models_and_rows_of_nothing_but_padding_stay_finite():
    text, text_mask, visual, visual_mask = example()
    text_mask[1] = False
    visual_mask[2] = False
    with torch.autocast("cpu", torch.bfloat16):
        found = transport(text.bfloat16().requires_grad_(), text_mask, visual.bfloat16(), visual_mask)
    assert found.plan_BTV.dtype == torch.float32
    assert found.distance_B[1:].tolist() == [0, 0]
    assert found.distance_B.isfinite().all()
