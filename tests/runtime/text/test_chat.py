"""Chat templates: the same text as transformers renders, without it."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export import target as export_target
from runtime.backends.placement import Placement
from runtime.decoding.decoder import Decoder
from runtime.run import PROG, main
from runtime.targets.target import Target
from runtime.text.chat import ChatTemplate, TemplateSource
from s2d_trt.cli import run_command
from s2d_trt.errors import BundleError, OptionError

BRACKETS = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must alternate user/assistant') }}
    {%- endif -%}
    {%- if turn['role'] == 'user' -%}
        {{ bos_token + '[INST] ' + (system if loop.first else '') + turn['content'].strip() + ' [/INST]' }}
    {%- else -%}
        {{ ' ' + turn['content'].strip() + ' ' + eos_token }}
    {%- endif -%}
{%- endfor -%}
"""
HEADERS = """\
{{ bos_token }}
{% for message in messages %}
    {% generation %}
{{ '<|head|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {% endgeneration %}
    {% if loop.last and add_generation_prompt %}
        {{ '<|head|>assistant<|end|>\\n\\n' }}
    {% endif %}
{% endfor %}
"""
WITH_TOOLS = """\
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n' }}
{%- for tool in tools %}
{{- tool | tojson }}
{{- '\\n' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- set found = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {%- if message.role == 'user' %}{% set found.last = loop.revindex0 %}{% break %}{% endif %}
{%- endfor %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + ('*' if loop.index0 == found.last else '') + '\\n' + message.content }}
{%- if message.tool_calls is defined %}
{%- for call in message.tool_calls %}
{{- '\\n<tool_call>\\n' + call | tojson(indent=2) + '\\n</tool_call>' }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
TEMPLATES = {"brackets": BRACKETS, "headers": HEADERS, "with tools": WITH_TOOLS}
QUESTION = {"role": "user", "content": " Wie spät ist <es>? "}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one turn": [QUESTION],
    "system": [{"role": "system", "content": "Be brief & kind."}, QUESTION],
    "three turns": [QUESTION, {"role": "assistant", "content": "Noon."}, {"role": "user", "content": "Sure?"}],
}
TOOLS = [{"type": "function", "function": {"name": "clock", "description": "Zeit & <Ort>", "parameters": {}}}]


@pytest.fixture
def chat_bundle(target_checkpoint: Path, tmp_path: Path) -> Any:
    """Builds the target with a chat template, in a file of its own or in the tokenizer's configuration."""

    def built(template: object, in_config: bool = False) -> Path:
        checkpoint = Path(shutil.copytree(target_checkpoint, tmp_path / "checkpoint", dirs_exist_ok=True))
        if in_config:
            path = checkpoint / "tokenizer_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
        else:
            (checkpoint / "chat_template.jinja").write_text(str(template), encoding="utf-8")
        out = tmp_path / "chat.engine"
        export_target.main(["--checkpoint", str(checkpoint), "--out", str(out), "--no-parity"])
        return out

    return built


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("answer", [True, False])
def test_the_text_is_the_one_that_transformers_renders(
    target_checkpoint: Path, chat_bundle: Any, template: str, conversation: str, answer: bool
) -> None:
    from transformers import AutoTokenizer

    tools = TOOLS if template == "with tools" else None
    theirs = AutoTokenizer.from_pretrained(target_checkpoint).apply_chat_template(
        CONVERSATIONS[conversation],
        chat_template=TEMPLATES[template],
        tools=tools,
        add_generation_prompt=answer,
        tokenize=False,
    )
    ours = ChatTemplate.of(Target.open(chat_bundle(TEMPLATES[template])))
    assert ours.render(CONVERSATIONS[conversation], tools, answer) == theirs


def test_tool_calls_are_rendered_as_transformers_renders_them(target_checkpoint: Path, chat_bundle: Any) -> None:
    from transformers import AutoTokenizer

    called = {"role": "assistant", "content": "", "tool_calls": [{"name": "clock", "arguments": {"ort": "Köln"}}]}
    messages = [QUESTION, called, {"role": "tool", "content": "12:00"}]
    tokenizer = AutoTokenizer.from_pretrained(target_checkpoint)
    theirs = tokenizer.apply_chat_template(
        messages, chat_template=WITH_TOOLS, tools=TOOLS, tokenize=False, add_generation_prompt=True
    )
    assert ChatTemplate.of(Target.open(chat_bundle(WITH_TOOLS))).render(messages, TOOLS) == theirs


@pytest.mark.parametrize(
    "template", [HEADERS, [{"name": "default", "template": HEADERS}, {"name": "tool_use", "template": "x"}]]
)
def test_a_template_may_be_in_the_tokenizers_configuration(chat_bundle: Any, template: object) -> None:
    template_ = ChatTemplate.of(Target.open(chat_bundle(template, in_config=True)))
    assert template_.render([QUESTION]).startswith("<|endoftext|>")


def test_the_tokens_of_a_conversation_are_those_of_its_text(chat_bundle: Any) -> None:
    decoder = Decoder(Target.open(chat_bundle(HEADERS), Placement(threads=1)))
    request = decoder.chat_request([QUESTION], max_new_tokens=4)
    text = ChatTemplate.of(decoder.target).render([QUESTION])
    assert decoder.tokenizer.decode(request.prompt, skip_special_tokens=False) == text
    assert request.prompt.count(0) == 1  # the template's own beginning of text, not a second one


def test_a_conversation_that_the_template_refuses_is_an_error_with_its_reason(chat_bundle: Any) -> None:
    template = ChatTemplate.of(Target.open(chat_bundle(BRACKETS)))
    with pytest.raises(OptionError, match="template of chat does not take this conversation: roles must alternate"):
        template.render([{"role": "assistant", "content": "I begin."}])


@pytest.mark.parametrize("source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"])
def test_a_template_cannot_reach_out_of_its_sandbox(chat_bundle: Any, source: str) -> None:
    template = ChatTemplate.of(Target.open(chat_bundle(source)))
    with pytest.raises(OptionError, match="does not take"):
        template.render([QUESTION])


def test_a_decoder_compiles_its_template_once(chat_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, started = Decoder(Target.open(chat_bundle(HEADERS), Placement(threads=1))), []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **named: started.append(given) or popen(*given, **named))
    for _ in range(2):
        decoder.chat_request([QUESTION])
    assert len(started) == 1


def test_a_decoder_chats_on_when_its_bundle_is_replaced(chat_bundle: Any) -> None:
    decoder = Decoder(Target.open(chat_bundle(HEADERS), Placement(threads=1)))
    before = decoder.chat_request([QUESTION]).prompt
    decoder = Decoder(Target.open(chat_bundle(HEADERS), Placement(threads=1)))
    chat_bundle(BRACKETS)
    assert decoder.chat_request([QUESTION]).prompt == before


DOUBLING = "{% set n = namespace(t='x') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}"
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
HOSTILE = {
    "a division by zero": ("{{ 1 // 0 }}", "division"),
    "an endless loop": (ENDLESS + 3 * "{% endfor %}", "takes more than 1 s or 512 MiB"),
    "a loop inside the library": ("{{ 7 ** (7 ** (9 * messages|length)) }}", "takes more than 1 s or"),
    "a text that doubles": (DOUBLING, "MemoryError|takes more than"),
    "a text of gigabytes": ("{{ 'x' * 10 ** (10 * messages|length) }}", "MemoryError"),
    "a text of megabytes": ("{{ 'x' * 20000000 }}", "makes a text of 20000000 characters"),
    "a number of gigabytes": ("{{ 10 ** (10 ** (10 * messages|length)) }}", "MemoryError|takes more than|exponent"),
    "a width of gigabytes": ("{{ 'x'.center(10 ** 10) }}", "MemoryError|takes more than"),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "an integer too long to print": ("{{ 10 ** (5000 * messages|length) }}", "digits"),
    "an undefined function": ("{{ nothing() }}", "undefined"),
    "an odd format of time": ("{{ strftime_now(7) }}", "str"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_template_is_one_line_in_two_seconds_and_the_next_text_is_rendered(kind: str) -> None:
    source, reason = HOSTILE[kind]
    template = ChatTemplate(
        TemplateSource("bad", "{% if messages %}" + source + "{% else %}fine{% endif %}", {"bos_token": "<s>"})
    )
    began = time.perf_counter()
    with pytest.raises(OptionError, match=f"the chat template of bad does not take this conversation: .*({reason})"):
        template.render([QUESTION])
    assert template.render([]) == "fine"
    assert time.perf_counter() - began < 20  # two seconds on a machine that is not busy


@pytest.mark.parametrize("source", ["{% for message in %}", "{{" + "(" * 100_000, "{% raw %}" * 9, "{{ '" + "x" * 99])
def test_a_template_that_cannot_be_compiled_is_refused(source: str) -> None:
    with pytest.raises(BundleError, match="target bad: its chat template cannot be compiled as Jinja"):
        ChatTemplate(TemplateSource("bad", source, {}))


@pytest.mark.parametrize("message", [{"role": 1j}, {"role": {1, 2}}, {"content": b"bytes"}])
def test_a_message_that_is_no_json_is_refused(message: dict[str, object]) -> None:
    template = ChatTemplate(TemplateSource("good", "{{ messages }}", {}))
    with pytest.raises(OptionError, match="is no part of a conversation"):
        template.render([message])


def test_a_nested_message_beyond_all_depth_is_refused() -> None:
    message: dict[str, Any] = {}
    for _ in range(5000):
        message = {"content": message}
    with pytest.raises(OptionError, match="recursion"):
        ChatTemplate(TemplateSource("good", "{{ messages }}", {})).render([message])


def test_the_process_of_a_template_ends_with_the_template() -> None:
    template = ChatTemplate(TemplateSource("good", "{{ messages }}", {}))
    process = template._process._process
    assert process is not None
    assert process.poll() is None
    del template
    gc.collect()
    assert process.poll() is not None


@pytest.mark.parametrize(
    "config", ["[]", '{"chat_template": 7}', '{"chat_template": [1, {"name": "x"}]}', '{"bos_token": [1]}']
)
def test_a_tokenizer_configuration_of_any_form_only_lacks_a_template(tmp_path: Path, config: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(config)
    found = {"tokenizer_config.json": tmp_path / "tokenizer_config.json"}
    source = TemplateSource.of(SimpleNamespace(name="odd", companion=found.get))
    assert (source.text, source.special_tokens) == (None, {})


def test_a_template_that_is_no_jinja_is_refused(chat_bundle: Any) -> None:
    target = Target.open(chat_bundle("{% for message in %}"))
    with pytest.raises(BundleError, match="cannot be compiled as Jinja"):
        ChatTemplate.of(target)


def test_a_target_without_a_template_takes_no_conversation(target_bundle: Path) -> None:
    with pytest.raises(BundleError, match="has no chat template"):
        Decoder(Target.open(target_bundle, Placement(threads=1))).chat_request([QUESTION])


def test_the_command_chats(chat_bundle: Any, draft_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engines = ["--target", str(chat_bundle(HEADERS)), "--draft", str(draft_bundle), "--threads", "1"]
    capsys.readouterr()
    main([*engines, "--chat", "--system", "the tree", "--prompt", "the draft", "--max-new-tokens", "5", "--json"])
    result = json.loads(capsys.readouterr().out)
    template = ChatTemplate.of(Target.open(Path(engines[1])))
    text = template.render([{"role": "system", "content": "the tree"}, {"role": "user", "content": "the draft"}])
    decoder = Decoder(Target.open(Path(engines[1]), Placement(threads=1)))
    assert result["prompt_tokens"] == len(decoder.tokenizer.encode(text, add_special_tokens=False).ids)


def test_a_system_turn_without_a_chat_is_one_line(draft_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_command(PROG, main, ["--target", str(draft_bundle), "--prompt", "x", "--system", "y"])
    assert exit_.value.code == 2
    assert "add --chat" in capsys.readouterr().err
