"""The live page without a browser: paint and silent filters are what they say, and only this machine may ask."""

import base64
import io
import json
import threading
from contextlib import contextmanager
from http.client import HTTPConnection

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from test_decision_sheets import asked_of
from test_training import data

from interp_cnn.cli import config_text
from interp_cnn.cli import main as cli
from interp_cnn.commands import play
from interp_cnn.explanation.decisions.head import Head
from interp_cnn.explanation.occlusion import occlusion_map
from interp_cnn.play.pictures import painted, png_address
from interp_cnn.play.playground import Playground
from interp_cnn.play.questions import Outdated, Question, question_of
from interp_cnn.play.server import Server
from interp_cnn.runs.inputs import InputPicture


@pytest.fixture(scope="module")
def digits():
    return data()


@pytest.fixture(scope="module")
def asked(digits):
    return asked_of(digits)


@pytest.fixture(scope="module")
def image(digits):
    return digits.val_set[5].image


@pytest.fixture
def playground(asked, image):
    pictures = [
        InputPicture("five", "5", lambda: image),
        InputPicture("dark", "", lambda: torch.zeros_like(image)),
    ]
    return Playground([asked], pictures, reads=lambda content, name: read(content, name, image))


def read(content, name, image):
    if not content:
        raise ValueError(f"{name}: no image")
    return image.flip(2)


def layer_of_paint(size, *dots, colour=(255, 0, 0), alpha=255) -> bytes:
    """A PNG without paint but for some (row, column)."""
    pixels = np.zeros((*size, 4), dtype=np.uint8)
    for row, column in dots:
        pixels[row, column] = (*colour, alpha)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def logits_of(asked, image):
    with torch.no_grad():
        return asked.network(image[None])[0]


# paint


def test_paint_replaces_the_pixels_it_covers_and_no_other_bit():
    image = torch.rand(3, 5, 7)
    after = painted(image, layer_of_paint((5, 7), (1, 2), (4, 6), colour=(255, 51, 0)))
    expected = image.clone()
    for row, column in ((1, 2), (4, 6)):
        expected[:, row, column] = torch.tensor([1.0, 0.2, 0.0])
    assert torch.equal(after, expected)
    assert torch.equal(
        painted(image, layer_of_paint((5, 7), (1, 2), alpha=100)), image
    )  # the brush's soft edge
    grey = painted(torch.zeros(1, 5, 7), layer_of_paint((5, 7), (0, 0), colour=(255, 51, 0)))
    assert grey[0, 0, 0] == pytest.approx(0.4) and grey.sum() == grey[0, 0, 0]
    assert painted(image, None) is image


@pytest.mark.parametrize("paint", [b"", b"no png", layer_of_paint((4, 4))])
def test_paint_that_does_not_fit_is_a_sentence(paint):
    with pytest.raises(ValueError, match=r"^paint: "):
        painted(torch.rand(3, 5, 7), paint)


# answers


@pytest.mark.parametrize("off", [(), (3,), (0, 2, 5)])
def test_a_silent_filter_is_a_map_of_zeros_and_shares_sum_to_what_is_left(playground, asked, image, off):
    network = asked.network
    with torch.no_grad():
        head = Head(network, image[None], playground.layers["mine"])
        maps = head.maps.clone()
        maps[:, list(off)] = 0
        expected = head(maps)[0]
    answer = playground.answer(Question("five", "mine", off={"mine": off}, target=2))
    (said,), sheet = answer["networks"], answer["sheet"]
    for it in said["classes"]:
        assert it["logit"] == pytest.approx(expected[it["number"]].item(), abs=1e-5)
        assert it["change"] == pytest.approx(
            (expected - logits_of(asked, image))[it["number"]].item(), abs=1e-5
        )
    assert said["class"] == int(expected.argmax()) and 2 in [it["number"] for it in said["classes"]]
    assert sheet["score"] == pytest.approx(expected[2].item(), abs=1e-5)
    parts = [row["share"] for row in sheet["rows"]]
    parts += [sheet["others_for"][1], sheet["others_against"][1], sheet["rest"]]
    assert sum(parts) == pytest.approx(sheet["score"], abs=1e-5)
    assert [row["filter"] for row in sheet["off"]] == sorted(off)
    assert not set(off) & {row["filter"] for row in sheet["rows"]}
    counted = len(sheet["rows"]) + sheet["others_for"][0] + sheet["others_against"][0] + len(off)
    assert counted <= sheet["filters"]  # some bring nothing either way


def test_what_a_silent_filter_would_bring_is_its_share_with_all_filters_on(playground):
    whole = playground.answer(Question("five", "mine", target=2))["sheet"]["rows"][0]
    again = playground.answer(Question("five", "mine", off={"mine": (whole["filter"],)}, target=2))["sheet"]
    assert again["off"][0]["share"] == pytest.approx(whole["share"], abs=1e-6)
    assert (
        playground.answer(Question("five", "mine", target=2))["sheet"]["rows"][0] == whole
    )  # and is on again


def test_a_method_that_fails_on_one_image_gives_way_to_the_next(playground, monkeypatch):
    from interp_cnn.play import playground as room

    before = playground.answer(Question("five", "mine", target=2))["sheet"]
    assert before["method"] == "exact"

    def refuse(*asked, **how):
        raise ValueError("exact: not on this image")

    monkeypatch.setattr(room, "filter_contributions", refuse)
    after = playground.answer(Question("five", "mine", target=2, rows=9))["sheet"]
    assert after["score"] == before["score"] and after["rows"]


def test_questions_at_once_are_answered_one_by_one(playground, asked, image):
    from concurrent.futures import ThreadPoolExecutor

    sets = [(), (0,), (1, 2), (3, 4, 5), (0, 5), (2,)] * 3
    alone = {
        off: playground.answer(Question("five", "mine", off={"mine": off}, target=1))["sheet"]["score"]
        for off in set(sets)
    }
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(
                lambda off: playground.answer(Question("five", "mine", off={"mine": off}, target=1)), sets
            )
        )
    assert [it["sheet"]["score"] for it in answers] == [alone[off] for off in sets]


def test_painted_images_are_asked_about_as_they_are_painted(playground, asked, image):
    paint = layer_of_paint(image.shape[1:], *[(row, 10) for row in range(4, 20)], colour=(255, 255, 255))
    expected = logits_of(asked, painted(image, paint))
    (said,) = playground.answer(Question("five", "mine", paint))["networks"]
    assert said["classes"][0]["logit"] == pytest.approx(expected.max().item(), abs=1e-6)
    assert said["said"] == asked.classes[int(logits_of(asked, image).argmax())]


def test_as_many_filters_are_listed_as_are_asked_for(playground):
    few, many = (playground.answer(Question("five", "mine", rows=rows))["sheet"] for rows in (3, 30))
    assert len(few["rows"]) <= 3 < len(many["rows"])
    assert set(map(str, few["rows"])) <= set(map(str, many["rows"]))


def test_the_occlusion_map_is_that_of_the_network_that_is_left(playground, asked, image, monkeypatch):
    from interp_cnn.play import playground as room

    drawn = []
    monkeypatch.setattr(room.figures, "overlay", lambda rgb, values, **how: drawn.append(values) or rgb)
    playground.answer(Question("five", "mine", off={"mine": (1, 2)}))
    hiding = playground.hiding(Question("five", "mine", off={"mine": (1, 2)}, target=4))
    side = round(image.shape[1] / hiding["windows"] ** 0.5)
    with playground._silenced(asked, (1, 2)):
        maps = [
            occlusion_map(asked.network, image[None], 4, window=room.WINDOW, stride=stride, fill=0.0)[0]
            for stride in room.STRIDES
        ]
    assert side and any(np.allclose(drawn[0], it.numpy(), atol=1e-5) for it in maps)
    left, top, width, height = hiding["most"]
    hidden = image.clone()
    hidden[:, top : top + height, left : left + width] = 0
    with playground._silenced(asked, (1, 2)):
        drop = (logits_of(asked, image) - logits_of(asked, hidden))[4].item()
    assert hiding["largest"] == pytest.approx(drop, abs=1e-5)


def test_nobody_waits_for_a_map_that_is_out_of_date(playground, monkeypatch):
    from interp_cnn.play import playground as room

    class Slow:
        def run(self):
            for _ in range(5):
                yield
                playground._newest += 1

    monkeypatch.setattr(room, "occlusion_job", lambda *asked: Slow())
    with pytest.raises(Outdated):
        playground.hiding(Question("five", "mine"))


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (Question("six", "mine"), "image: nothing is called 'six'"),
        (Question("five", "yours"), "network: nothing is called 'yours'; there are mine"),
        (Question("five", "mine", target=10), "target=10: mine tells 10 classes apart"),
        (Question("five", "mine", off={"mine": (99_999,)}), r"off=\[99999\]: mine has filters 0 to"),
        (Question("five", "mine", paint=b"?"), "paint: expected a PNG"),
    ],
)
def test_questions_without_an_answer_are_sentences(playground, question, sentence):
    with pytest.raises(ValueError, match=sentence):
        playground.answer(question)
    assert playground.answer(Question("five", "mine"))["networks"][0]["class"] >= 0  # and it goes on


def test_images_of_the_visitors_get_names_of_their_own(playground, image):
    assert [playground.add(b"x", "five"), playground.add(b"x", "five"), playground.add(b"x", "new")] == [
        "five (2)",
        "five (3)",
        "new",
    ]
    assert torch.equal(playground.pixels("five (3)"), image.flip(2))
    with pytest.raises(ValueError, match="bad: no image"):
        playground.add(b"", "bad")


def test_a_network_that_no_method_shares_out_still_answers(image):
    from interp_cnn.decisions.sheet import Asked

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.maps = torch.nn.Conv2d(1, 3, 3)

        def forward(self, images):
            values = self.maps(images)
            return torch.linalg.svdvals(values.flatten(2)).square()[:, :2]

    asked = Asked("odd", Odd().eval(), ("a", "b"))
    answer = Playground([asked], [InputPicture("x", "", lambda: image)], reads=read, layer="maps").answer(
        Question("x", "odd")
    )
    assert answer["sheet"]["refusal"] and answer["networks"][0]["says"] in ("a", "b")


# over HTTP


@contextmanager
def serving(playground):
    server = Server(playground, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(port, method, path, body=None, **headers):
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Host": f"localhost:{port}"} | {name.replace("_", "-"): it for name, it in headers.items()}
    connection.request(method, path, body=body, headers=headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply, content


def test_questions_over_http_get_the_answers_of_the_playground(playground, image):
    paint = layer_of_paint(image.shape[1:], (3, 3))
    question = {"image": "five", "network": "mine", "off": {"mine": [3]}, "target": 1}
    with serving(playground) as port:
        body = json.dumps({**question, "paint": base64.b64encode(paint).decode()})
        reply, content = ask(port, "POST", "/answer", body, Content_Type="application/json")
        assert reply.status == 200
        got = json.loads(content)
        expected = playground.answer(Question("five", "mine", paint, {"mine": (3,)}, 1))
        got.pop("seconds"), expected.pop("seconds")
        assert got == json.loads(json.dumps(expected))
        welcome = json.loads(ask(port, "GET", "/welcome")[1])
        assert [it["name"] for it in welcome["images"]] == ["five", "dark"]
        assert welcome["networks"][0]["layer"] == "conv5"
        picture = json.loads(ask(port, "GET", "/image?name=five")[1])["picture"]
        assert picture == playground.picture("five") and picture.startswith("data:image/png;base64,")
        looks = json.loads(ask(port, "GET", "/looks?network=mine&filter=0")[1])["picture"]
        assert looks is None or looks.startswith("data:image/png")
        for path in ("/", "/play.js", "/play.css", "/style.css", "/script.js", "/decision.css"):
            reply, content = ask(port, "GET", path)
            assert reply.status == 200 and content
            assert b"http://" not in content.replace(b"http://www.w3.org", b"") and b"https://" not in content
            assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
        added = ask(port, "POST", "/add?name=my%20photo", b"bytes", Content_Type="application/octet-stream")
        assert json.loads(added[1]) == {"name": "my photo"}


def test_only_this_machine_asks_and_only_with_json(playground):
    with serving(playground) as port:
        assert ask(port, "GET", "/welcome", Host="evil.example")[0].status == 403
        assert ask(port, "GET", "/welcome", Host=f"evil.example:{port}")[0].status == 403
        assert ask(port, "GET", "/welcome", Host=f"127.0.0.1:{port}")[0].status == 200
        good = json.dumps({"image": "five", "network": "mine"})
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            reply, _ = ask(port, "POST", "/answer", good, Content_Type=kind)  # what a foreign form may send
            assert reply.status == 404
        assert ask(port, "POST", "/add?name=a", b"x", Content_Type="text/plain")[0].status == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/answer", b"{", 400, "no question: expected JSON"),
        ("/answer", b"[]", 400, "no question: expected JSON"),
        ("/answer", b'{"image": "five"}', 400, "no question: expected JSON"),
        ("/answer", b'{"image": "five", "network": "mine", "paint": "!"}', 400, "no question"),
        ("/hiding", b'{"image": "six", "network": "mine"}', 400, "nothing is called 'six'"),
        ("/nowhere", b"{}", 404, "nothing takes this at /nowhere"),
    ],
)
def test_bad_questions_over_http_are_sentences(playground, path, body, status, said):
    with serving(playground) as port:
        reply, content = ask(port, "POST", path, body, Content_Type="application/json")
        assert reply.status == status and said in json.loads(content)["error"]


def test_a_fault_of_ours_is_told_in_the_terminal_too(playground, monkeypatch, caplog):
    def fail(*asked):
        raise RuntimeError("a bug")

    monkeypatch.setattr(playground, "pixels", fail)
    with serving(playground) as port:
        reply, content = ask(port, "GET", "/image?name=five")
    assert reply.status == 500 and "a bug" in json.loads(content)["error"]
    assert "a bug" in caplog.text


def test_a_port_that_is_taken_is_said_and_the_next_is_found(playground, monkeypatch):
    from interp_cnn.play import server as room

    with serving(playground) as port:
        with pytest.raises(ValueError, match=f"port={port}: .*give another"):
            Server(playground, port)
        monkeypatch.setattr(room, "PORT", port)
        with Server(playground) as other:
            assert other.server_address[1] != port


def test_a_question_is_read_whole():
    body = {"image": "a", "network": "n", "off": {"n": [1, 2]}, "target": 3, "rows": 20, "paint": None}
    expected = Question("a", "n", None, {"n": (1, 2)}, 3, 20)
    assert question_of(json.dumps(body).encode()) == expected


# the command


def test_the_networks_of_the_package_are_there_to_play_with():
    with initialize_config_dir(str(config_text.config_folder()), version_base="1.3"):
        found = play.playground(compose("play", overrides=["limit=12", "device=cpu"]))
    assert list(found.networks) == ["interpretable", "plain"] and len(found.pictures) == 12
    first = next(iter(found.pictures.values()))
    answer = found.answer(Question(first.name, "plain"))
    assert answer["networks"][1]["says"] == first.label and answer["sheet"]["rows"]
    picture = found.pixels(first.name)
    file = io.BytesIO()
    Image.fromarray((picture[0].numpy() * 255).round().astype(np.uint8)).save(file, "PNG")
    name = found.add(file.getvalue(), "scan.png")
    assert found.pixels(name).shape == picture.shape
    with pytest.raises(ValueError, match=r"^notes\.txt: not an image"):
        found.add(b"words", "notes.txt")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["port=70000"], "port=70000: expected a number from 0 to 65535, or null"),
        (["nowhere"], "No such run folder: nowhere"),
        (["images=nowhere"], "images: No such file or directory: nowhere"),
        (["run=digits-plain", "network=torchvision:resnet18"], "give run=FOLDER or network=NAME, not both"),
    ],
)
def test_what_cannot_be_played_with_is_said_and_leaves_nothing(
    words, sentence, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["play", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_picture_in_an_address_is_that_picture():
    picture = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    content = base64.b64decode(png_address(picture).split(",")[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), picture)
