"""The training report, from invented results: what it says, that it draws, and that nothing leaves the page."""

from __future__ import annotations

import dataclasses
import math
import re
import threading
from html import unescape
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from okko_models.decision import Costs, DecisionRule, Promise, Verdict
from okko_models.manifest import SCHEMA_VERSION, DatasetEntry, GoldenFrame, Manifest, Model, Provenance
from okko_train.calibration import Calibration
from okko_train.dataset import Dataset, Photo, SkippedPhoto
from okko_train.metrics import Evaluation, evaluate
from okko_train.report import MOST_MISTAKES, render
from okko_train.report.plots import costs_at, precision_recall_points, promised, uncertain_share
from okko_train.report.swarm_plots import importance
from okko_train.report.wording import headline, number, percent
from okko_train.result import Example, LearningCurve, Sight, TrainingResult, Trial, Variant
from tests.browser import open_page, screenshot

TWO = ("KO", "OK")
RULE = DecisionRule(("OK",), ok_threshold=0.75, ko_threshold=0.25, costs=Costs(5, 1, 0.25))
SECTIONS = ("mistakes", "confusion", "thresholds", "swarm", "learning", "precision", "data", "made")


def invented_evaluation(n: int, labels: tuple[str, ...], rule: DecisionRule, seed: int = 0) -> Evaluation:
    random = np.random.default_rng(seed)
    truth = np.arange(n) % len(labels)
    scores = random.normal(0, 1.4, (n, len(labels)))
    scores[np.arange(n), truth] += 4
    return evaluate(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), truth, labels, rule)


def invented_trials(n: int) -> tuple[Trial, ...]:
    random = np.random.default_rng(1)
    trials = []
    for index in range(n):
        pull = 0.6 ** (index // 6)
        rate = float(np.exp(math.log(4e-3) + pull * random.normal(0, 1.5)))
        parameters = {
            "learning_rate": rate,
            "components": int(random.integers(8, 200)),
            "hidden_layers": int(random.integers(0, 2)),
            "l2": float(np.exp(math.log(1e-2) + pull * random.normal(0, 2))),
            "epochs": int(random.integers(10, 80)),
        }
        if parameters["hidden_layers"]:
            parameters["hidden_units"] = int(random.integers(8, 64))
            parameters["dropout"] = float(random.uniform(0, 0.6))
        cost = 0.08 + 0.06 * math.log(rate / 4e-3) ** 2 + 0.02 * abs(float(random.normal()))
        trials.append(Trial(index, index // 6, parameters, cost, 0.97 - cost / 8, float(random.uniform(0.2, 0.9))))
    return tuple(trials)


def invented_result(
    labels: tuple[str, ...] = TWO, rule: DecisionRule = RULE, n_test: int = 200, n_trials: int = 30, n_mistakes: int = 5
) -> TrainingResult:
    random = np.random.default_rng(2)
    photos = tuple(
        Photo(Path(f"/photos/{i}.jpg"), f"{i}.jpg", labels[i % len(labels)], f"rig {i % 7}", "0" * 64)
        for i in range(600)
    )
    counts = {label: sum(photo.label == label for photo in photos) for label in labels}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="marbles",
        version="3",
        created="2025-04-01T09:30:00Z",
        labels=labels,
        decision=rule,
        model=Model("int8", 18, "1.22", 1280, 0.02),
        metrics={},
        dataset=DatasetEntry("a" * 64, counts, "rig", n_test),
        provenance=Provenance(
            "okko train photos --out marbles --seed 7",
            7,
            "3.12.3",
            {"numpy": "2.3.1", "onnxruntime": "1.22.0"},
            {"learning_rate": 0.00312, "components": 96},
        ),
        golden=(GoldenFrame("golden/0.png", (1.0,) + (0.0,) * (len(labels) - 1)),),
        files={},
    )
    skipped = (
        SkippedPhoto("KO/broken.jpg", "is truncated", "unreadable"),
        SkippedPhoto("a.txt", "is no picture", "not a photo"),
    )
    epochs = np.arange(40)
    curves = tuple(
        LearningCurve(
            0.65 * np.exp(-epochs / 8) + 0.01 * fold,
            0.6 * np.exp(-epochs / 9) + 0.08 + 0.02 * fold + 0.001 * epochs + random.normal(0, 0.003, 40),
        )
        for fold in range(5)
    )
    bad = next(label for label in labels if label not in rule.ok_labels)
    verdicts = (Verdict.OK, Verdict.UNCERTAIN)
    mistakes = tuple(
        Example(
            f"{bad}/ri{i:05}.jpg",
            random.integers(0, 255, (96, 128, 3)).astype(np.uint8),
            bad,
            {label: 1 / len(labels) for label in labels},
            verdicts[i > 1],
        )
        for i in range(n_mistakes)
    )
    return TrainingResult(
        manifest=manifest,
        dataset=Dataset(Path("/photos"), "sub-folders", photos, skipped, labels, "a" * 64, "rig"),
        test=invented_evaluation(n_test, labels, rule),
        validation=invented_evaluation(400, labels, rule, seed=5),
        trials=invented_trials(n_trials),
        chosen=n_trials // 2,
        curves=curves,
        calibration=Calibration(1.31, (0.0,) * len(labels)),
        variants=(
            Variant("efficientnet-lite0", "float32", 13.2, 21.4, 0.1012, 0.0512, shipped=False),
            Variant("efficientnet-lite0", "int8", 3.9, 8.75, 0.1034, 0.0525, shipped=True),
        ),
        sights=(Sight("OK/1.jpg", "OK", np.full((96, 128, 3), 90, np.uint8), (0.25, 0.1, 0.375, 0.5)),),
        mistakes=mistakes,
        duration_s=83.0,
    )


def with_manifest(result: TrainingResult, **changes: Any) -> TrainingResult:
    return dataclasses.replace(result, manifest=msgspec.structs.replace(result.manifest, **changes))


def words(page: str) -> str:
    text = unescape(re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]))
    return re.sub(r"\s+", " ", text)


@pytest.fixture(scope="module")
def page() -> str:
    return render(invented_result())


def test_the_page_has_every_section_and_a_picture_in_each_that_promises_one(page: str) -> None:
    parts = dict(re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL))
    assert tuple(parts) == SECTIONS
    drawn = {name: part.count('role="img"') for name, part in parts.items()}
    assert (drawn["thresholds"], drawn["swarm"], drawn["learning"]) == (5, 5, 1)


def test_the_first_sentence_counts_every_test_photo_once(page: str) -> None:
    result = invented_result()
    test = result.test
    unsure = test.verdicts["UNCERTAIN"]
    right = test.n - test.false_ok - test.false_ko - unsure
    said = re.search(
        r"Of (\d+) photos it had never seen, it sorted (\d+) right .*?, sent (\d+) to a person", words(page)
    )
    assert said is not None
    assert [int(group) for group in said.groups()] == [test.n, right, unsure]


def test_the_same_result_gives_the_same_page_byte_for_byte(page: str) -> None:
    assert render(invented_result()) == page


def test_the_page_stays_small_with_every_mistake_it_shows() -> None:
    full = invented_result(n_mistakes=MOST_MISTAKES + 6)
    large = np.random.default_rng(0).integers(0, 255, (700, 900, 3)).astype(np.uint8)
    full = dataclasses.replace(full, mistakes=tuple(dataclasses.replace(one, image=large) for one in full.mistakes))
    page = render(full)
    assert page.count("<img ") == MOST_MISTAKES + len(full.sights)
    assert f"The worst {MOST_MISTAKES} of {MOST_MISTAKES + 6}" in words(page)
    assert len(page.encode()) < 2_000_000


def test_no_style_attribute_and_no_address_is_left_that_the_policy_would_block(page: str) -> None:
    assert " style=" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert not re.findall(r"url\((?!#)", page)
    assert "http://" not in page
    assert "https://" not in page


def test_every_placeholder_colour_has_become_a_variable_that_the_style_sheet_defines(page: str) -> None:
    assert "#5eed" not in page
    css = page.partition("<style>")[2].partition("</style>")[0]
    assert set(re.findall(r'"var\(--([\w-]+)\)"', page)) <= set(re.findall(r"--([\w-]+):", css))


def test_ids_are_unique_and_every_reference_finds_its_target(page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)) <= {
        pair for one in ids for pair in ((one, ""), ("", one))
    }


def test_names_of_photos_labels_and_files_are_text_and_never_markup() -> None:
    evil = "<script>alert(1)</script>&\"' $x_1$ \udcff\x01"
    labels = (evil, "KO")
    rule = DecisionRule((evil,), 0.75, 0.25, Costs())
    result = invented_result(labels, rule)
    result = dataclasses.replace(
        result,
        dataset=dataclasses.replace(result.dataset, skipped=(SkippedPhoto(evil, evil, "unreadable"),), group_by=evil),
        mistakes=(dataclasses.replace(result.mistakes[0], name=evil),),
        trials=tuple(
            dataclasses.replace(t, parameters=t.parameters | {"kind": f"{evil}{t.number % 2}"}) for t in result.trials
        ),
    )
    page = render(result)
    page.encode()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6


def test_without_mistakes_a_sentence_says_so() -> None:
    assert "None at all: each of the 200 photos" in words(render(invented_result(n_mistakes=0)))


def test_one_trial_draws_no_path_and_says_why() -> None:
    page = render(invented_result(n_trials=1))
    assert "Fewer than two trials gave a result" in words(page)
    assert "The best of 1 trial" in words(page)


def test_no_trials_no_curves_no_skipped_photos_and_one_variant_still_make_a_page() -> None:
    result = invented_result(n_trials=0)
    bare = dataclasses.replace(
        result,
        curves=(LearningCurve(np.array([]), np.array([])),),
        variants=result.variants[1:],
        dataset=dataclasses.replace(result.dataset, skipped=(), group_by=None),
    )
    text = words(render(bare))
    assert "No learning curve was recorded" in text
    assert "No file was skipped" in text
    assert "One variant was measured" in text


def test_failed_trials_are_counted_and_not_drawn() -> None:
    result = invented_result(n_trials=12)
    trials = [dataclasses.replace(t, cost=math.inf) if t.number % 4 == 0 else t for t in result.trials]
    text = words(render(dataclasses.replace(result, trials=tuple(trials))))
    assert "9 trials in 2 generations" in text
    assert "3 trials failed" in text


def test_a_search_in_which_every_trial_failed_still_makes_a_page() -> None:
    result = invented_result(n_trials=6)
    trials = tuple(dataclasses.replace(trial, cost=math.inf) for trial in result.trials)
    assert "Fewer than two trials gave a result" in words(render(dataclasses.replace(result, trials=trials)))


def test_trials_that_all_tried_the_same_make_a_convergence_plot_alone() -> None:
    result = invented_result(n_trials=4)
    trials = tuple(dataclasses.replace(trial, parameters={"l2": 0.1}) for trial in result.trials)
    page = render(dataclasses.replace(result, trials=trials))
    assert page.partition('id="swarm"')[2].partition("</section>")[0].count('role="img"') == 1


def test_five_labels_of_which_two_are_good_fit_the_page() -> None:
    labels = ("chipped", "clear", "empty", "opaque", "two")
    page = render(invented_result(labels, DecisionRule(("clear", "opaque"), 0.8, 0.3, Costs())))
    assert "clear and opaque count as good, out of the labels" in words(page)
    assert page.count("said ") == 5


def test_a_rule_without_uncertain_zone_is_explained_in_two_sentences() -> None:
    rule = DecisionRule(("OK",), 0.5, 0.5, Costs(1, 1, 1))
    text = words(render(invented_result(rule=rule)))
    decides = text.partition("How it decides")[2].partition("The thresholds were chosen")[0]
    assert "UNCERTAIN" not in decides
    assert "KO, when it is below 50" in decides


def test_few_trials_claim_nothing_about_what_mattered() -> None:
    text = words(render(invented_result(n_trials=7)))
    assert "With fewer than 8 trials one cannot tell" in text
    assert "What mattered" not in text


def test_a_test_without_any_bad_photo_admits_what_it_cannot_say() -> None:
    result = invented_result()
    truth = np.ones(30, int)
    test = evaluate(np.tile([0.1, 0.9], (30, 1)), truth, TWO, RULE)
    text = words(render(dataclasses.replace(result, test=test)))
    assert "says nothing about how many bad ones would get through" in text


def test_a_perfect_test_of_one_photo_a_label_is_not_called_certain() -> None:
    test = evaluate(np.array([[0.99, 0.01], [0.02, 0.98]]), np.array([0, 1]), TWO, RULE)
    assert "sorted 2 right (100 %, 95 % interval 34.2 to 100 %)" in headline(test).replace("\N{NO-BREAK SPACE}", " ")
    render(dataclasses.replace(invented_result(), test=test))


def test_precision_and_recall_agree_with_counting_by_hand() -> None:
    recall, precision = precision_recall_points(np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, True]))
    assert recall.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert precision.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 4])


def test_the_cost_plot_and_the_evaluation_agree_at_the_chosen_thresholds() -> None:
    test = invented_result().test
    cost = costs_at(test, RULE, np.array([RULE.ko_threshold]), np.array([RULE.ok_threshold]))
    assert cost[0] == pytest.approx(test.cost_per_photo.value)


def test_the_part_that_is_looked_at_is_drawn_on_a_photo_and_said_to_be_found_or_drawn(page: str) -> None:
    assert '<rect class="edge" x="0.25" y="0.1" width="0.375" height="0.5"/>' in page
    assert "it was found from the photos" in words(page)
    result = invented_result()
    provenance = msgspec.structs.replace(result.manifest.provenance, hyperparameters={"roi": "0.25,0.1,0.375,0.5"})
    drawn = render(with_manifest(result, provenance=provenance))
    assert "that was drawn (<code>--roi 0.25,0.1,0.375,0.5</code>)" in drawn
    whole = dataclasses.replace(result, sights=(dataclasses.replace(result.sights[0], part=(0.0, 0.0, 1.0, 1.0)),))
    assert "At the whole photo." in words(render(whole))


def test_a_promise_is_stated_with_what_the_test_found_of_it_and_not_at_all_without_one(page: str) -> None:
    assert "Promised:" not in words(page)
    rule = msgspec.structs.replace(RULE, promise=Promise(0.02, 0.9, 200, 180))
    result = invented_result(rule=rule)
    said = words(render(result))
    assert "at most 2 % are called OK, and of good ones at most 2 % KO" in said
    assert "180 bad photos and 200 good" in said
    assert f"{result.test.false_ok} of {(~result.test.truly_ok).sum()} bad" in said


def test_what_the_report_says_of_calibration_and_uncertain_is_what_was_measured(page: str) -> None:
    result, said = invented_result(), words(page)
    error = result.test.calibration_error
    assert f"probability is {percent(error.corrected.value)} off".replace("\N{NO-BREAK SPACE}", " ") in said
    assert f"Uncorrected it is {percent(error.plain)}".replace("\N{NO-BREAK SPACE}", " ") in said
    unsure = result.test.verdicts["UNCERTAIN"] / result.test.n
    assert f"{percent(unsure)} of the test go to a person".replace("\N{NO-BREAK SPACE}", " ") in said


def test_how_many_test_photos_were_unlike_training_is_said_if_the_model_can_tell(page: str) -> None:
    assert "unlike anything in training" not in words(page)
    result = invented_result()
    novelty = np.where(np.arange(result.test.n) < 3, 1.2, 0.4)
    told = dataclasses.replace(result, test=dataclasses.replace(result.test, novelty=novelty))
    assert f"that happened to {percent(3 / result.test.n)}".replace("\N{NO-BREAK SPACE}", " ") in words(render(told))


def test_a_stricter_promise_never_asks_a_person_less_often() -> None:
    validation = invented_result().validation
    shares = [uncertain_share(validation, promised(validation, RULE, error)) for error in (0.02, 0.05, 0.1, 0.2)]
    assert shares == sorted(shares, reverse=True)


def test_the_hyperparameter_that_decides_the_cost_is_named_first() -> None:
    first, second, *_ = sorted(importance(invented_trials(60)).items(), key=lambda pair: -pair[1])
    assert first[0] == "learning_rate"
    assert first[1] > 2 * second[1]


def test_a_hyperparameter_without_influence_has_none() -> None:
    trials = [Trial(i, 0, {"works": i % 2, "idle": (i // 2) % 2}, 1.0 + i % 2, 0.5, 1.0) for i in range(24)]
    assert importance(trials) == {"works": pytest.approx(1.0), "idle": 0.0}


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1, "100 %"), (0.97, "97 %"), (0.9996, "99.96 %"), (0.99999999, "above 99.99 %")]
)
def test_a_share_is_rounded_but_never_to_all_or_nothing(share: float, text: str) -> None:
    assert percent(share).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "0.0123"), (1234.5, "1,234"), (12, "12"), (math.inf, "failed"), (3e-9, "3.00e-09")]
)
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_browser_shows_the_page_without_a_complaint(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    opened = open_page(file)
    assert opened.console == ()
    assert [f'id="{name}"' in opened.dom for name in SECTIONS] == [True] * len(SECTIONS)
    assert opened.dom.count("<svg") == page.count("<svg")


def test_the_page_is_laid_out_and_coloured_on_a_phone_and_in_the_dark(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    corners = {}
    for dark in (False, True):
        picture = Image.open(screenshot(file, tmp_path / f"{dark}.png", width=500, height=900, dark=dark)).convert("L")
        assert picture.size == (500, 900)
        assert np.asarray(picture).std() > 10
        corners[dark] = picture.getpixel((2, 2))
    assert corners[False] > 200
    assert corners[True] < 60


def test_even_a_picture_or_script_smuggled_into_the_page_reaches_no_server(page: str, tmp_path: Path) -> None:
    asked = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        smuggled = f'<img src="{address}/picture"><script>document.title = "run"; fetch("{address}/script")</script>'
        file = tmp_path / "report.html"
        file.write_text(page.replace("<body>", f"<body>{smuggled}"), encoding="utf-8")
        opened, asked_by_report = open_page(file), tuple(asked)
        file.write_text(f"<body>{smuggled}", encoding="utf-8")
        without_policy = open_page(file)
        server.shutdown()
    assert asked_by_report == ()
    assert "<title>run</title>" not in opened.dom
    assert any("Content Security Policy" in message for message in opened.console)
    assert asked, "the listener hears a page that has no policy"
    assert "<title>run</title>" in without_policy.dom
