"""Refusals of a model as the seldon protocol has them; the program makes a 500 of most exceptions."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from helpers.serving.common.errors import RequestError, seldon_error

errors = Blueprint("errors", __name__)


@errors.app_errorhandler(HTTPException)
def _refused(problem: HTTPException) -> tuple[Response, int]:
    """Keep the status of a refusal: the program makes a 500 of every exception it does not know."""
    return _answer(problem.code or 500, str(problem.description))


@errors.app_errorhandler(RequestError)
def _refused_by_us(problem: RequestError) -> tuple[Response, int]:
    return _answer(problem.status, str(problem))


@errors.app_errorhandler(AttributeError)
@errors.app_errorhandler(KeyError)
@errors.app_errorhandler(TypeError)
@errors.app_errorhandler(ValueError)
def _no_message(problem: Exception) -> tuple[Response, int]:
    """The program reads a message without checking its shape first."""
    return _answer(400, f"The request is no SeldonMessage, or its data do not fit: {problem}")


def _answer(code: int, info: str) -> tuple[Response, int]:
    return jsonify(seldon_error(RequestError(code, info), request.path)), code
