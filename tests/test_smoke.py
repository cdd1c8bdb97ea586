def test_a(cartpole_run): print(cartpole_run.evals, [(k,v) for k,v in cartpole_run.traced.most_common(10)])
def test_b(pendulum_run): print(pendulum_run.traced)
