"""What is answered: the scorer's own answers, whoever asks beside one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image
from tests.serve.endpoint import figure, files, picture, running, until, words
from tests.serve.scorers import AfraidOfTheDark, Brightness, Forgetful, Held, OutOfRange

from redaes.inference import Score


def test_a_form_and_json_get_the_same_scores_in_the_order_of_the_images() -> None:
    with running(Brightness()) as client:
        form = client.post("/score", files=files(picture(51), picture(255)))
        json = client.post("/score", json=words(picture(51), picture(255)))
    assert form.status_code == json.status_code == 200
    assert [row["score"] for row in form.json()["scores"]] == [2.0, 10.0]
    assert [row["name"] for row in form.json()["scores"]] == ["0.png", "1.png"]
    assert form.json()["model"] == "a-model"
    assert json.json()["scores"] == [{**row, "name": None} for row in form.json()["scores"]]


def test_an_image_may_be_a_data_url() -> None:
    with running(Brightness()) as client:
        sent = {"images": ["data:image/png;base64," + words(picture(102))["images"][0]]}
        assert client.post("/score", json=sent).json()["scores"][0]["score"] == 4.0


def test_a_ranking_has_the_best_first_and_equals_in_order() -> None:
    with running(Brightness()) as client:
        ranking = client.post("/rank", files=files(*map(picture, (51, 204, 51, 102)))).json()["ranking"]
    assert [row["index"] for row in ranking] == [1, 3, 0, 2]


def test_a_comparison_says_which_is_better_and_by_how_much() -> None:
    with running(Brightness()) as client:
        first, second, neither = (
            client.post("/compare", files=files(picture(a), picture(b))).json()
            for a, b in ((204, 51), (51, 204), (51, 51))
        )
    assert (first["difference"], first["better"]) == (-6.0, 0)
    assert (second["difference"], second["better"]) == (6.0, 1)
    assert (neither["difference"], neither["better"]) == (0.0, None)


def test_a_scorer_that_cannot_compare_says_so() -> None:
    class ScoresOnly:
        def score(self, images: Sequence[Image.Image]) -> list[Score]:
            return [Score(5.0, "", "") for _ in images]

    with running(ScoresOnly()) as client:
        assert client.post("/compare", files=files(picture(), picture())).status_code == 501


def test_answers_that_cannot_be_read_are_scores_of_null_and_are_counted() -> None:
    with running(OutOfRange()) as client:
        row = client.post("/score", files=files(picture(100))).json()["scores"][0]
        assert (row["score"], row["status"]) == (None, "unparsed")
        assert figure(client, 'redaes_unparsed_total{question="score"}') == 1
        ranking = client.post("/rank", files=files(picture(100))).json()["ranking"]
        assert ranking[0]["score"] is None


def test_requests_that_wait_together_go_to_the_scorer_together() -> None:
    scorer = Held()
    with running(scorer, batch_size=8) as client, ThreadPoolExecutor(12) as pool:
        first = pool.submit(client.post, "/score", files=files(picture(0)))
        assert scorer.begun.wait(5)
        others = [pool.submit(client.post, "/score", files=files(picture(level))) for level in range(1, 12)]
        until(lambda: figure(client, "redaes_queue_images") == 11)
        scorer.go.set()
        answers = [future.result().json()["scores"][0]["score"] for future in [first, *others]]
        assert answers == [pytest.approx(level / 25.5) for level in range(12)]
        assert scorer.batches == [1, 8, 3]
        assert figure(client, 'redaes_batch_images_bucket{le="1.0",question="score"}') == 1
        assert figure(client, 'redaes_batch_images_count{question="score"}') == 3
        assert figure(client, "redaes_images_inside") == figure(client, "redaes_queue_images") == 0


def test_a_large_request_does_not_keep_a_small_one_waiting() -> None:
    scorer = Held()
    finished = []
    with running(scorer, batch_size=4) as client, ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.post, "/score", files=files(picture()))
        assert scorer.begun.wait(5)
        large = pool.submit(client.post, "/score", files=files(*[picture()] * 40))
        until(lambda: figure(client, "redaes_queue_images") == 40)
        small = pool.submit(client.post, "/score", files=files(picture()))
        until(lambda: figure(client, "redaes_queue_images") == 41)
        for name, future in (("large", large), ("small", small)):
            future.add_done_callback(lambda _, name=name: finished.append(name))
        scorer.seconds = 0.05
        scorer.go.set()
        assert [future.result().status_code for future in (first, large, small)] == [200] * 3
    assert finished == ["small", "large"]


def test_scores_and_comparisons_take_turns() -> None:
    scorer = Held()
    with running(scorer, batch_size=4) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.post, "/score", files=files(picture()))
        assert scorer.begun.wait(5)
        scores = pool.submit(client.post, "/score", files=files(*[picture()] * 8))
        until(lambda: figure(client, "redaes_queue_images") == 8)
        pairs = [pool.submit(client.post, "/compare", files=files(picture(), picture())) for _ in range(2)]
        until(lambda: figure(client, "redaes_queue_images") == 10)
        scorer.go.set()
        assert [future.result().status_code for future in (first, scores, *pairs)] == [200] * 4
    assert scorer.batches == [1, 4, 1, 1, 4]  # a pair weighs as much as four images


def test_only_the_culprit_of_a_failed_batch_fails(caplog: pytest.LogCaptureFixture) -> None:
    scorer = AfraidOfTheDark()
    with running(scorer) as client:
        mixed = client.post("/score", files=files(picture(51), picture(0)))
        with ThreadPoolExecutor(8) as pool:
            levels = (51, 0, 102, 0, 204, 51, 0, 102)
            codes = list(pool.map(lambda n: client.post("/score", files=files(picture(n))).status_code, levels))
        assert codes == [500 if level == 0 else 200 for level in levels]
        assert figure(client, "redaes_scorer_failures_total") == 4
    assert mixed.status_code == 500
    assert mixed.json()["images"] == [{"index": 1, "name": "1.png", "reason": "made the scorer fail"}]
    assert "secret" not in mixed.text
    assert "/home" not in mixed.text
    assert "secret-of-the-scorer" in caplog.text


def test_an_answer_beyond_the_scale_is_a_failure_of_the_scorer() -> None:
    with running(OutOfRange()) as client:
        assert client.post("/score", files=files(picture(0))).status_code == 500
        assert client.post("/score", files=files(picture(255))).status_code == 500
        assert client.post("/score", files=files(picture(100))).status_code == 200


def test_a_scorer_with_too_few_answers_is_asked_again_one_by_one() -> None:
    with running(Forgetful()) as client:
        rows = client.post("/score", files=files(*map(picture, (51, 102, 204)))).json()["scores"]
    assert [row["score"] for row in rows] == [2.0, 4.0, 8.0]


def test_the_same_bytes_are_scored_once_where_answers_are_kept() -> None:
    scorer = Brightness()
    with running(scorer, cache=2) as client:

        def score(*levels: int) -> list[float]:
            return [row["score"] for row in client.post("/score", files=files(*map(picture, levels))).json()["scores"]]

        assert score(51, 102) == [2.0, 4.0]
        assert score(102, 204, 51) == [4.0, 8.0, 2.0]
        assert sum(scorer.batches) == 3
        assert figure(client, "redaes_cached_answers_total") == 2
        assert score(102) == [4.0]  # the oldest of three had to go
        assert sum(scorer.batches) == 4
        client.post("/compare", files=files(picture(51), picture(204)))
        assert client.post("/compare", files=files(picture(204), picture(51))).json()["difference"] == -6.0


def test_many_clients_of_nano_get_what_the_scorer_says_of_the_files_itself(tmp_path: Path) -> None:
    from skimage import data

    from redaes import Scorer

    scorer = Scorer("nano", device="cpu")
    whole = Image.fromarray(data.astronaut())
    paths = [tmp_path / f"{number:02}.jpg" for number in range(24)]
    for at, path in zip(range(0, 240, 10), paths, strict=True):
        whole.crop((at, at // 2, at + 260, at // 2 + 200)).resize((1300, 1000)).save(path, quality=90)
    direct = [score.value for score in scorer.score(paths)]
    assert len(set(direct)) > 1
    with running(scorer) as client, ThreadPoolExecutor(24) as pool:

        def asked(path: Path) -> httpx.Response:
            return client.post("/score", files={"images": path.read_bytes()})

        answers = [answer.json()["scores"][0]["score"] for answer in pool.map(asked, paths)]
        batches = figure(client, 'redaes_batch_images_count{question="score"}')
        assert figure(client, 'redaes_batch_images_sum{question="score"}') == 24
        assert figure(client, 'redaes_batch_images_bucket{le="1.0",question="score"}') < batches < 24
        pair = client.post("/compare", files=[("images", path.read_bytes()) for path in paths[:2]]).json()
    assert answers == direct
    assert pair["difference"] == scorer.compare_pairs([(paths[0], paths[1])])[0].value
    assert pair["disagreement"] >= 0
