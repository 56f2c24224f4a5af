"""Chats as prompts: lists of messages, put into text by the model's own chat template.

The template writes the start token and the marks of the turns, and ends where the assistant's answer begins: the metric
is read there. A chat whose last message is the assistant's is continued, behind the words that it begins with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from veracausa.arguments import is_list, kind_and_value, shown
from veracausa.errors import TaskError

#: One message: {"role": "user", "content": "…"}.
Message = Mapping[str, str]


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is a list of messages."""
    return is_list(prompt) and not hasattr(prompt, "dtype") and any(isinstance(one, Mapping) for one in prompt)


def chat_text(tokenizer: Any, chat: str | Sequence[Message], where: str, **options: Any) -> str:
    """The text of a chat by the tokenizer's template, up to where the answer begins; a text alone is a user's message.

    `options`: for the template, such as enable_thinking=False.

    Raises:
        TaskError: the tokenizer has no template, a message is malformed, or the template refuses the chat (its own
            words are in the message).
    """
    messages = [{"role": "user", "content": chat}] if isinstance(chat, str) else _messages(chat, where)
    if not getattr(tokenizer, "chat_template", None):
        raise TaskError(
            f"{where} is a chat, but this tokenizer has no chat template. Base models have none; for a chat model "
            "whose template was lost, set lm.tokenizer.chat_template, or give the prompt as text."
        )
    begun = messages[-1]["role"] == "assistant"
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun, **options
        )
    except Exception as error:  # whatever a template's own code raises
        why = " ".join(str(error).split())[:300] or type(error).__name__
        roles = ", ".join(message["role"] for message in messages)
        raise TaskError(f"{where}: the model's chat template refuses these messages ({roles}): {why}") from error
    last = messages[-1]["content"].rstrip()
    if last not in text:
        raise TaskError(
            f"{where}: the model's chat template leaves the last message out ({shown(last)}), so the prompts would not "
            "be what they seem. Is its role one that the template knows?"
        )
    return str(text)


def _messages(chat: Any, where: str) -> list[dict[str, str]]:
    for message in chat:
        fine = isinstance(message, Mapping) and {"role", "content"} <= set(message)
        if not fine or not all(isinstance(message[key], str) for key in ("role", "content")):
            raise TaskError(
                f'{where}: a message is {{"role": "user", "content": "…"}}, both text, but this is '
                f"{kind_and_value(message)}"
            )
    return [{"role": message["role"], "content": message["content"]} for message in chat]
