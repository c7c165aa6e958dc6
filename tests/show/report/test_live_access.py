"""Who may read what is served."""

import hmac

import pytest
from live_server import TOKEN
from report_records import HOSTILE, write_study
from starlette.testclient import TestClient

from normscope.commands.serve import find_sources
from normscope.show.live.access import Access
from normscope.show.live.app import App

PATHS = ("/", "/changes", "/events", "/nothing")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    for name in ("one", "two", "<b>&"):
        write_study(folder / name, norms=("batch",), seeds=(0,), epochs=1)
    (folder / "secret.txt").write_text("secret")
    app = App(lambda: find_sources(folder), Access(TOKEN, {"my-machine"}))
    for followed in app.sources.values():
        followed.look()
    return app


@pytest.fixture(scope="module")
def client(app):
    return TestClient(app.asgi, base_url="http://127.0.0.1:8642")


def get(client, path="/", **headers):
    return client.get(
        path,
        params={"token": TOKEN, "of": "one"},
        headers={k.replace("_", "-"): v for k, v in headers.items()},
    )


def test_with_the_token_the_page_is_served(client):
    answer = get(client)
    assert answer.status_code == 200
    assert "normscope report" in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "query",
    ["", "token=", "token=wrong", f"token={TOKEN}x", f"token={TOKEN}&token=other", "token=%ff%fe"],
)
def test_without_it_nothing_is(client, path, query):
    answer = client.get(f"{path}?of=one&{query}")
    assert answer.status_code == 403
    assert "token" in answer.text
    assert answer.text.count("\n") == 1


def test_tokens_are_compared_in_constant_time(client, monkeypatch):
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or False)
    assert get(client).status_code == 403
    assert compared == [(TOKEN.encode(), TOKEN.encode())]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8642",
        "127.0.0.1.evil.example",
        "",
        "[::1",
        "localhost.evil.example",
        "a b",
    ],
)
def test_foreign_hosts_are_refused(client, host):
    assert get(client, host=host).status_code == 403


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8642", "localhost:1", "[::1]:8642", "10.0.0.7", "my-machine:8642", "MY-MACHINE"],
)
def test_names_and_numbers_of_this_machine_are_not(client, host):
    assert get(client, host=host).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},  # another port is another site
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "cors"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "script"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", PATHS)
def test_reads_on_behalf_of_another_site_are_refused(client, headers, path):
    answer = get(client, path, **headers)
    assert answer.status_code == 403
    assert "Another site" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://127.0.0.1:8642", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {
            "sec_fetch_site": "cross-site",
            "sec_fetch_mode": "navigate",
            "sec_fetch_dest": "document",
        },  # a link
    ],
)
def test_the_page_itself_and_links_are_not(client, headers):
    assert get(client, **headers).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_it_is_for_reading(client, method):
    assert client.request(method, "/", params={"token": TOKEN}).status_code == 405


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt",
        "..",
        "secret.txt",
        "/etc/passwd",
        "one/../two",
        "one/runs",
        "",
        "%2e%2e",
        HOSTILE,
    ],
)
def test_a_name_is_never_a_path(client, name):
    answer = client.get("/changes", params={"token": TOKEN, "of": name})
    assert answer.status_code == 404
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/%2e%2e/secret.txt", "/one/runs/run0/record.sqlite", "//etc/passwd"]
)
def test_there_are_no_files(client, path):
    assert client.get(path, params={"token": TOKEN}).status_code == 404


def test_several_studies_are_listed_and_names_stay_text(client):
    answer = client.get("/", params={"token": TOKEN})
    assert answer.text.count("<a href=") == 3
    assert "<b>" not in answer.text
    assert "&lt;b&gt;&amp;" in answer.text
    assert "default-src 'none'" in answer.text
    assert client.get("/", params={"token": TOKEN, "of": "<b>&"}).status_code == 200


def test_a_client_without_gzip_is_served(client):
    plain = client.get(
        "/changes", params={"token": TOKEN, "of": "one"}, headers={"Accept-Encoding": "identity"}
    )
    assert plain.json() == get(client, "/changes").json()
    assert "Content-Encoding" not in plain.headers


def test_the_served_page_may_ask_its_own_server_and_the_file_nobody(app):
    from normscope.show.report.build import assemble

    snapshot = app.sources["one"].snapshot
    assert "connect-src 'self'" in assemble(snapshot.title, snapshot.content, live=snapshot.version)
    alone = assemble(snapshot.title, snapshot.content)
    assert "connect-src" not in alone
    assert "EventSource" not in alone.split('id="payload"')[1].split("</script>", 2)[2]
