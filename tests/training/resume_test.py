# SPDX-License-Identifier: Apache-2.0
"""A run that is killed at any moment goes on, and forgets no step.

Run as a script, this file is the job that is killed. Random bounds have a
false-alarm probability of at most 1e-6.
"""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

import tf_privacy
from tf_privacy.sampling import poisson
from tf_privacy.training import logical_batch
from tf_privacy.training import resume
from tf_privacy.training import run_files

DELTA = 1e-5
N = 64
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4)).astype("float32")
Y = X[:, :1] - X[:, 1:2]
STEPS, EPOCHS = 5, 3
TINY = 1e-6  # Noise that changes no weight by 1e-4.


def clip_cheaply(model, data, **_):
    """Returns a sum that depends on the rows and on the weights."""
    row_sum = keras.ops.sum(data[0])
    variables = tuple(model.trainable_variables)
    return tf_privacy.ClippedSum(
        gradients=tuple(0.01 * (v.value + row_sum) for v in variables),
        variables=variables,
        l2_sensitivity=model.optimizer.l2_norm_clip,
    ), {"loss": 0.0}


@pytest.fixture(autouse=True)
def cheap_steps(monkeypatch, request):
    """What is resumed is not the clipping; a hundred fits are made here."""
    if "real_steps" not in request.fixturenames:
        monkeypatch.setattr(logical_batch, "clip_batch", clip_cheaply)


@pytest.fixture
def real_steps():
    """Asks for the engine's own clipped sums."""


def make_model(
    noise_multiplier=1.0,
    l2_norm_clip=1.0,
    units=1,
    make=None,
    rate=0.05,
    **options,
):
    """Eager, for a few steps, is faster than to trace."""
    keras.utils.set_random_seed(1)
    model = tf_privacy.DPSequential(
        [keras.Input((4,)), keras.layers.Dense(units)]
    )
    make = make or tf_privacy.DPAdam
    optimizer = make(
        rate,
        l2_norm_clip=l2_norm_clip,
        noise_multiplier=noise_multiplier,
        expected_batch_size=16,
    )
    model.compile(optimizer, "mse", **(options or {"run_eagerly": True}))
    return model


def make_data(steps_per_epoch=STEPS, num_examples=N):
    return tf_privacy.PoissonDataset(
        X,
        Y,
        expected_batch_size=16,
        steps_per_epoch=steps_per_epoch,
        num_examples=num_examples,
    )


class Crash(keras.callbacks.Callback):
    """Ends a run after so many of its steps, in one way or the other."""

    def __init__(self, after, act):
        super().__init__()
        self.left, self.act = after, act

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            self.act(self.model)


def fail(model):
    raise RuntimeError("crash")


def stop(model):
    model.stop_training = True


class Draws(keras.callbacks.Callback):
    """Keeps the rows of each batch that was drawn once training began."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.rows = []
        draw = poisson.PoissonSampling.draw

        def watched(sampling, rng):
            rows = draw(sampling, rng)
            self.rows.append(rows.tolist())
            return rows

        monkeypatch.setattr(poisson.PoissonSampling, "draw", watched)

    def on_train_begin(self, logs=None):
        self.rows.clear()


def fit(folder, *callbacks, model=None, data=None, epochs=EPOCHS, **settings):
    """Fits as a script that is started again does; crashes are survived."""
    if model is None:
        model = make_model()
    data = make_data() if data is None else data
    own = resume.ResumableTraining(folder, **settings)
    own.set_data(data)
    try:
        history = model.fit(
            data, epochs=epochs, verbose=0, callbacks=[own, *callbacks]
        )
    except RuntimeError as error:
        assert str(error) == "crash"
        return model, own, None
    return model, own, history.epoch


def num_steps(model):
    return model.optimizer.ledger.num_steps()


def crash_after(steps):
    return Crash(steps, fail)


LOST = pytest.warns(UserWarning, match="steps ran, or may have")


# Killed for good.


class Track(keras.callbacks.Callback):
    """Appends a byte to a file after each step."""

    def __init__(self, path):
        super().__init__()
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def on_train_batch_end(self, batch, logs=None):
        os.write(self.file, b".")


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def run_job(folder, moment, steps):
    """Trains, and is killed at a moment if it is one."""
    folder = pathlib.Path(folder)
    callbacks = [Track(folder / "steps")]
    if moment == "step":
        callbacks.append(Crash(int(steps), kill))
    if moment == "writing":
        write, left = run_files._write_record, [int(steps)]

        def write_or_die(path, content):
            if path.name == "record":
                left[0] -= 1
                if not left[0]:
                    path.write_bytes(b"half of a rec")
                    kill()
            write(path, content)

        run_files._write_record = write_or_die
    model, own, epochs = fit(
        folder / "run",
        *callbacks,
        model=make_model(run_eagerly=False),
        every_steps=3,
        reserve_steps=4,
    )
    state = {
        "ledger": num_steps(model),
        "updates": int(model.optimizer.iterations),
        "epochs": epochs,
        "lost": own.num_lost_steps,
    }
    (folder / "result").write_text(json.dumps(state))


def start_job(folder, moment="end", steps=0):
    root = pathlib.Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, __file__, str(folder), moment, str(steps)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_job_that_is_killed_goes_on_and_forgets_no_step(tmp_path):
    """The second one dies in the midst of its second checkpoint."""
    for moment, steps in [("step", 7), ("writing", 2)]:
        killed = start_job(tmp_path, moment, steps)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (tmp_path / "result").exists()
    last = start_job(tmp_path)
    assert last.returncode == 0, last.stderr
    result = json.loads((tmp_path / "result").read_text())
    # 0 to 7, from the checkpoint at 5 to 10, from the one at 8 to the end.
    assert len((tmp_path / "steps").read_bytes()) == 7 + 5 + 7
    # Four were announced each time and two of them ran.
    assert result["ledger"] == EPOCHS * STEPS + 4 + 4
    assert result["updates"] == EPOCHS * STEPS
    assert result["epochs"] == [1, 2]
    assert result["lost"] == 4


# Stopped, and taken up again.


@pytest.mark.parametrize("stops", [[5], [1, 6]])
def test_a_stopped_run_goes_on_as_the_uninterrupted_one(
    stops, tmp_path, monkeypatch
):
    """The same batches, weights, slots, epochs and count."""
    draws = Draws(monkeypatch)
    warnings.filterwarnings("error", message="Your input ran out")
    start, drawn = [], []

    def note(data):
        return keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: start.append(data.get_state())
        )

    epochs = []
    for stop_after in [*stops, 99]:
        data = make_data()
        model, own, some = fit(
            tmp_path,
            note(data),
            draws,
            Crash(stop_after, stop),
            model=make_model(TINY),
            data=data,
            every_steps=2,
        )
        epochs += some
        drawn += draws.rows[:stop_after]
        assert own.num_lost_steps == 0
    data = make_data()
    whole = make_model(TINY)
    whole.fit(
        data,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_begin=lambda logs: data.set_state(start[0])
            ),
            draws,
        ],
    )
    assert drawn == draws.rows
    assert sorted(set(epochs)) == list(range(EPOCHS))
    assert num_steps(model) == num_steps(whole) == EPOCHS * STEPS
    state = [*model.weights, *model.optimizer.inner_optimizer.variables]
    other = [*whole.weights, *whole.optimizer.inner_optimizer.variables]
    for a, b in zip(state, other, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-4)


def test_a_run_at_its_end_trains_no_more_and_can_be_made_longer(tmp_path):
    model, _, _ = fit(tmp_path)
    again, _, epochs = fit(tmp_path)
    assert epochs == [] and num_steps(again) == EPOCHS * STEPS
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    longer, _, epochs = fit(tmp_path, epochs=EPOCHS + 2)
    assert epochs == [EPOCHS, EPOCHS + 1]
    assert num_steps(longer) == (EPOCHS + 2) * STEPS
    # A later fit without the callback begins at the start again.
    assert longer.fit(X, Y, batch_size=16, verbose=0).epoch == [0]


def test_several_steps_in_one_execution(tmp_path, real_steps):
    def model():
        return make_model(steps_per_execution=2)

    settings = {"every_steps": 2, "reserve_steps": 1}
    fit(tmp_path, Crash(2, stop), model=model(), **settings)
    own, callback, epochs = fit(tmp_path, model=model(), **settings)
    assert epochs == [0, 1, 2] and callback.num_lost_steps == 0
    assert num_steps(own) == EPOCHS * STEPS == int(own.optimizer.iterations)


# Lost steps.


class Journal(keras.callbacks.Callback):
    """Holds the journal on the disk against the ledger after every step."""

    def __init__(self, folder):
        super().__init__()
        self.files = run_files.RunFiles(folder)
        self.most_ahead = 0

    def on_train_batch_end(self, batch, logs=None):
        rows = self.files.read_journal()["rows"]
        ahead = sum(row[-1] for row in rows) - num_steps(self.model)
        assert ahead >= 0
        self.most_ahead = max(self.most_ahead, ahead)


@pytest.mark.parametrize("reserve_steps", [1, 3])
def test_steps_are_on_the_disk_before_they_run(reserve_steps, tmp_path):
    journal = Journal(tmp_path)
    fit(tmp_path, journal, every_steps=4, reserve_steps=reserve_steps)
    assert journal.most_ahead == reserve_steps - 1


@pytest.mark.parametrize("crash, reserve_steps", [(2, 4), (9, 1), (13, 3)])
def test_lost_steps_are_counted(crash, reserve_steps, tmp_path):
    settings = {"every_steps": 3, "reserve_steps": reserve_steps}
    crashed, _, _ = fit(tmp_path, crash_after(crash), **settings)
    assert num_steps(crashed) == crash
    with LOST:
        model, own, epochs = fit(tmp_path, **settings)
    kept = int(model.optimizer.iterations)
    assert kept == EPOCHS * STEPS
    in_epoch = crash % STEPS
    # A checkpoint that is due comes before the step that follows.
    saved = crash - in_epoch + (3 if in_epoch > 3 else 0)
    ran = crash + EPOCHS * STEPS - saved
    assert ran <= num_steps(model) <= ran + reserve_steps - 1
    assert own.num_lost_steps == num_steps(model) - EPOCHS * STEPS


def test_lost_steps_are_counted_at_their_own_noise(tmp_path):
    """The first and the last stretch share a row of the ledger."""
    noise = tf_privacy.NoiseSchedule(
        boundaries=(3, 7), multipliers=(2.0, 1.0, 2.0)
    )
    settings = {"every_steps": 2, "reserve_steps": 3, "epochs": 2}
    fit(
        tmp_path,
        Journal(tmp_path),
        crash_after(4),
        model=make_model(noise),
        **settings,
    )
    with LOST:
        model, _, _ = fit(
            tmp_path, Journal(tmp_path), model=make_model(noise), **settings
        )
    counts = {
        kind.noise_multiplier: count
        for kind, count in model.optimizer.ledger.entries()
    }
    # From the checkpoint after 2 steps, the third and the next were announced
    # with one more, and are made again.
    assert counts == {2.0: 3 + 3 + 1, 1.0: 4 + 2}


def test_a_clip_that_moves_goes_on(tmp_path, real_steps):
    def make():
        clip = tf_privacy.QuantileClipping(l2_norm_clip=1.0)
        return make_model(l2_norm_clip=clip, run_eagerly=False)

    model, _, _ = fit(tmp_path, epochs=1, model=make())
    again, _, _ = fit(tmp_path, epochs=1, model=make())
    clips = [
        float(m.optimizer.clip_logs()["l2_norm_clip"]) for m in (model, again)
    ]
    assert clips[0] == clips[1] != 1.0


def test_lost_steps_are_never_drawn_again(tmp_path, monkeypatch):
    """Two batches are the same by chance with probability 1e-13."""
    draws = Draws(monkeypatch)
    fit(tmp_path, draws, crash_after(4))
    lost = draws.rows[:4]
    with LOST:
        fit(tmp_path, draws)
    assert not any(rows in lost for rows in draws.rows)
    assert len(draws.rows) == EPOCHS * STEPS


def test_unseen_steps_are_drawn_again_and_not_counted(tmp_path, monkeypatch):
    draws = Draws(monkeypatch)
    fit(tmp_path, draws, crash_after(4))
    lost = draws.rows[:4]
    model, own, _ = fit(tmp_path, draws, lost_steps="unseen")
    assert draws.rows[:4] == lost
    assert num_steps(model) == EPOCHS * STEPS and own.num_lost_steps == 0


def test_a_step_that_is_taken_again_has_other_noise(tmp_path):
    """The noise, of 10 / 16, is more than all else that moves a weight."""
    updates = []
    for _ in range(3):
        model = make_model(
            1e4, 1e-3, units=500, make=tf_privacy.DPSGD, rate=1.0
        )
        before = model.get_weights()[0]
        fit(tmp_path, crash_after(1), model=model, lost_steps="unseen")
        updates.append((model.get_weights()[0] - before).ravel())
    for i, a in enumerate(updates):
        assert a.std() > 0.0
        for b in updates[:i]:
            # 2000 values: 4.9 standard deviations.
            assert abs(np.corrcoef(a, b)[0, 1]) < 4.9 / np.sqrt(a.size)


def test_steps_that_the_folder_does_not_know_make_the_coins_new(
    tmp_path, monkeypatch
):
    """The same objects, trained in between without the callback."""
    draws = Draws(monkeypatch)
    model, data = make_model(), make_data()
    fit(tmp_path, Crash(2, stop), model=model, data=data)
    model.fit(data, verbose=0, callbacks=[draws])
    between = list(draws.rows)
    with LOST:
        fit(tmp_path, draws, model=model, data=data)
    assert not any(rows in between for rows in draws.rows)
    assert num_steps(model) == EPOCHS * STEPS + STEPS


ORDERS = [lambda a, b: [a, b], lambda a, b: [b, a]]


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_that_goes_on_stays_within_its_budget(order, tmp_path):
    """Lost steps leave fewer for the rest."""

    def run(*more):
        model, data = make_model(), make_data()
        own = resume.ResumableTraining(tmp_path, reserve_steps=1)
        own.set_data(data)
        budget = tf_privacy.PrivacyBudget(9.0, DELTA)
        callbacks = [*order(own, budget), *more]
        try:
            history = model.fit(data, epochs=99, verbose=0, callbacks=callbacks)
        except RuntimeError:
            return model, None
        return model, history.history["epsilon"][-1]

    run(crash_after(8))
    with LOST:
        model, logged = run()
    spent = num_steps(model)
    assert int(model.optimizer.iterations) == spent - 3
    epsilons = [
        tf_privacy.compute_epsilon(
            noise_multiplier=1.0,
            sampling_probability=0.25,
            num_steps=steps,
            delta=DELTA,
        )
        for steps in (spent, spent + 1)
    ]
    assert epsilons[0] <= 9.0 < epsilons[1]
    assert logged == pytest.approx(epsilons[0])


def test_a_run_that_goes_on_without_the_callback_keeps_its_budget(tmp_path):
    """Though the first checkpoint was written before there was one."""
    fit(tmp_path, tf_privacy.PrivacyBudget(20.0, DELTA), crash_after(3))
    with LOST:
        model, _, _ = fit(tmp_path)
    assert model.optimizer.budget == (20.0, DELTA)


# Damage.


def newest(folder):
    return sorted(pathlib.Path(folder).glob("checkpoint-*"))[-1]


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_epoch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logical_batch, "clip_batch", clip_cheaply)
        fit(folder, epochs=1)
    return folder


@pytest.fixture
def made(one_epoch, tmp_path):
    """The folder of a run after one epoch."""
    return shutil.copytree(one_epoch, tmp_path / "made")


@pytest.mark.parametrize(
    "damage, name",
    [
        (cut, "record"),
        (flip, "record"),
        (flip, "model.weights.h5"),
        (pathlib.Path.unlink, "model.weights.h5"),
    ],
)
def test_of_a_damaged_checkpoint_the_older_one_is_taken(damage, name, made):
    damage(newest(made) / name)
    with pytest.warns(UserWarning) as caught:
        model, own, epochs = fit(made, epochs=1)
    messages = [str(warning.message) for warning in caught]
    assert any("newest checkpoint is damaged" in text for text in messages)
    assert any("counted as spent" in text for text in messages)
    assert epochs == [0]
    assert own.num_lost_steps == STEPS
    assert num_steps(model) == 2 * STEPS


def test_without_a_whole_checkpoint_nothing_begins_anew(made):
    for path in made.glob("checkpoint-*"):
        cut(path / "record")
    with pytest.raises(ValueError, match="^directory must hold a whole check"):
        fit(made)


def test_without_its_journal_a_checkpoint_is_not_trusted(made):
    flip(made / "journal")
    with pytest.raises(ValueError, match="^directory must hold a whole journ"):
        fit(made)
    (made / "journal").unlink()
    with pytest.raises(ValueError, match="^directory must hold the journal"):
        fit(made)


def test_without_a_checkpoint_the_journal_still_counts(tmp_path):
    fit(tmp_path, crash_after(3), reserve_steps=1)
    for path in tmp_path.glob("checkpoint-*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    model, _, _ = fit(tmp_path)
    assert num_steps(model) == 3 + EPOCHS * STEPS


def test_a_crash_while_a_checkpoint_is_written_harms_none(made, monkeypatch):
    def full(path, content):
        raise RuntimeError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(run_files, "_write_record", full)
        with pytest.raises(RuntimeError, match="crash"):
            run_files.RunFiles(made).write_checkpoint(
                {}, lambda path: pathlib.Path(path).write_bytes(b"half")
            )
    _, own, epochs = fit(made, epochs=2)
    assert epochs == [1] and own.num_lost_steps == 0
    assert not (made / "writing").exists()


def test_two_checkpoints_are_kept_for_their_owner_only(tmp_path):
    folder = tmp_path / "run"
    fit(folder, every_steps=1, epochs=1)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    paths = sorted(folder.glob("checkpoint-*"))
    assert len(paths) == 2
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        files = list(path.iterdir())
        assert {f.name for f in files} == {"record", "model.weights.h5"}
        assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in files)
    assert {p.name for p in folder.iterdir()} - {p.name for p in paths} == {
        "journal",
        "lock",
    }


# Another run's folder.

CHANGES = {
    "optimizer.noise_multiplier": {"noise_multiplier": 1.1},
    "optimizer.l2_norm_clip": {"l2_norm_clip": 2.0},
    "model.weights": {"units": 4},
    "optimizer": {"make": tf_privacy.DPSGD},
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_are_refused_by_name(name, made):
    with pytest.raises(ValueError, match=f"^{name}.* must be what the run"):
        fit(made, model=make_model(**CHANGES[name]))


@pytest.mark.parametrize(
    "name, change",
    [
        ("dataset.num_examples", {"num_examples": 60}),
        ("dataset.steps_per_epoch", {"steps_per_epoch": 6}),
    ],
)
def test_other_data_are_refused_by_name(name, change, made):
    with pytest.raises(ValueError, match=f"^{name} must be what the run"):
        fit(made, data=make_data(**change))


def test_a_refused_start_leaves_the_folder_to_others(made):
    with pytest.raises(ValueError, match="must be what the run"):
        fit(made, model=make_model(2.0))
    other = os.open(made / "lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_the_learning_rate_goes_on(tmp_path):
    """A callback may have lowered it; what the script says is the start."""
    model = make_model()
    lower = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01)
    fit(tmp_path, lower, model=model, epochs=1)
    again, _, _ = fit(tmp_path, epochs=1)
    assert float(again.optimizer.learning_rate) == pytest.approx(0.01)


def test_two_processes_do_not_share_a_folder(tmp_path):
    files = run_files.RunFiles(tmp_path)
    other = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(RuntimeError, match="^directory must be used by one"):
        files.lock()
    os.close(other)
    files.lock()
    files.lock()  # This process has it already.
    files.unlock()


# What cannot be resumed.


def test_the_data_must_be_known(tmp_path):
    callback = resume.ResumableTraining(tmp_path)
    callback.set_model(make_model())
    with pytest.raises(RuntimeError, match="^set_data must be called"):
        callback.on_train_begin()


def test_arrays_are_taken_up_within_an_epoch(tmp_path, real_steps):
    for stop_after in (7, 99):
        own = resume.ResumableTraining(tmp_path, every_steps=2)
        model = make_model(run_eagerly=False)
        model.fit(
            X,
            Y,
            batch_size=16,
            epochs=EPOCHS,
            steps_per_epoch=STEPS,
            verbose=0,
            callbacks=[own, Crash(stop_after, stop)],
        )
    assert own.num_lost_steps == 0
    assert num_steps(model) == EPOCHS * STEPS


def test_other_data_begin_the_epoch_again(tmp_path):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return STEPS

        def __getitem__(self, index):
            return X[index : index + 16], Y[index : index + 16]

    with pytest.raises(ValueError, match="^every_steps must be None"):
        fit(tmp_path, data=Batches(), every_steps=2)
    fit(tmp_path, crash_after(8), data=Batches(), reserve_steps=1)
    with LOST:
        model, _, epochs = fit(tmp_path, data=Batches())
    assert epochs == [1, 2]
    assert num_steps(model) == EPOCHS * STEPS + 3


def test_steps_per_epoch_is_the_data_sets(tmp_path):
    own = resume.ResumableTraining(tmp_path)
    data = make_data()
    own.set_data(data)
    with pytest.raises(ValueError, match="^steps_per_epoch must be given to"):
        make_model().fit(data, steps_per_epoch=3, callbacks=[own])


def test_worker_processes_are_refused(tmp_path):
    data = make_data()
    data.workers = 2
    with pytest.raises(ValueError, match="^workers must be 1"):
        fit(tmp_path, data=data)


def test_models_must_be_private_and_built(tmp_path):
    own = resume.ResumableTraining(tmp_path)
    own.set_data(make_data())
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    own.set_model(plain)
    with pytest.raises(TypeError, match="^model must be private"):
        own.on_train_begin()
    unbuilt = tf_privacy.DPSequential([keras.layers.Dense(1)])
    unbuilt.compile(make_model().optimizer, "mse")
    with pytest.raises(ValueError, match="^model must be built"):
        fit(tmp_path, model=unbuilt)


@pytest.mark.parametrize("name", ["every_steps", "reserve_steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, np.nan])
def test_settings_are_checked(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        resume.ResumableTraining(tmp_path, **{name: value})


def test_lost_steps_are_spent_or_unseen(tmp_path):
    with pytest.raises(ValueError, match="^lost_steps must be one of"):
        resume.ResumableTraining(tmp_path, lost_steps="forgotten")


# Custom loops.


def loop(folder, crash=None, noise_multiplier=1.0, sampling=None, **settings):
    """A loop over a plain Keras model; returns its state."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    optimizer = tf_privacy.DPAdam(
        0.05,
        l2_norm_clip=1.0,
        noise_multiplier=noise_multiplier,
        expected_batch_size=16,
    )
    data = make_data()
    steps = resume.ResumableLoop(
        folder,
        model=model,
        optimizer=optimizer,
        dataset=data,
        **{"every_steps": 3, "reserve_steps": 1, **settings},
    )
    drawn = {}
    for step in steps.steps(10):
        x, y = data[step]
        drawn[step] = x.tolist()
        clipped = tf_privacy.ClippedSum(
            gradients=tuple(v.value + 0.01 * x.sum() for v in model.weights),
            variables=tuple(model.weights),
            l2_sensitivity=1.0,
        )
        optimizer.apply(clipped, sampling=sampling or data.sampling)
        if step == crash:
            break
    return model, optimizer, steps, drawn


def test_a_loop_goes_on_where_it_was(tmp_path):
    _, first, _, _ = loop(tmp_path, crash=4)
    assert first.ledger.num_steps() == 5
    with LOST:
        _, optimizer, steps, drawn = loop(tmp_path)
    assert sorted(drawn) == list(range(3, 10))
    assert int(optimizer.iterations) == 10
    assert optimizer.ledger.num_steps() == 12
    assert steps.num_lost_steps == 2
    _, optimizer, _, drawn = loop(tmp_path)
    assert not drawn and optimizer.ledger.num_steps() == 12


def test_a_loop_draws_unseen_steps_again(tmp_path):
    """The last checkpoint was written before the step that was lost."""
    _, _, _, lost = loop(tmp_path, crash=3, lost_steps="unseen")
    _, optimizer, _, replay = loop(tmp_path, lost_steps="unseen")
    assert replay[3] == lost[3] and sorted(replay) == list(range(3, 10))
    assert optimizer.ledger.num_steps() == 10


def test_a_loop_must_announce_what_it_does(tmp_path):
    other = tf_privacy.PoissonSampling(num_examples=9, sampling_probability=0.5)
    with pytest.raises(RuntimeError, match="^each step must be announced"):
        loop(tmp_path, sampling=other)


def test_a_loop_needs_its_divisor(tmp_path):
    model = make_model()
    with pytest.raises(ValueError, match="^expected_batch_size must be set"):
        resume.ResumableLoop(
            tmp_path,
            model=model,
            optimizer=tf_privacy.DPSGD(
                0.1, l2_norm_clip=1.0, noise_multiplier=1.0
            ),
            dataset=None,
            every_steps=1,
        )
    with pytest.raises(TypeError, match="^optimizer must be a DP optimizer"):
        resume.ResumableLoop(
            tmp_path,
            model=model,
            optimizer=keras.optimizers.SGD(),
            dataset=None,
            every_steps=1,
        )


if __name__ == "__main__":
    run_job(*sys.argv[1:])
