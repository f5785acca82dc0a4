from proponent.v1 import explanation_pb2 as _explanation_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerRequest(_message.Message):
    __slots__ = ("predict", "explain", "score", "removal", "flip", "deadline_ns", "ticket")
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    FLIP_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_NS_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    predict: _explanation_pb2.PredictRequest
    explain: _explanation_pb2.ExplainRequest
    score: _explanation_pb2.ScoreExamplesRequest
    removal: _explanation_pb2.EstimateRemovalRequest
    flip: _explanation_pb2.FindFlipSetRequest
    deadline_ns: int
    ticket: int
    def __init__(self, predict: _Optional[_Union[_explanation_pb2.PredictRequest, _Mapping]] = ..., explain: _Optional[_Union[_explanation_pb2.ExplainRequest, _Mapping]] = ..., score: _Optional[_Union[_explanation_pb2.ScoreExamplesRequest, _Mapping]] = ..., removal: _Optional[_Union[_explanation_pb2.EstimateRemovalRequest, _Mapping]] = ..., flip: _Optional[_Union[_explanation_pb2.FindFlipSetRequest, _Mapping]] = ..., deadline_ns: _Optional[int] = ..., ticket: _Optional[int] = ...) -> None: ...

class WorkerReply(_message.Message):
    __slots__ = ("predict", "explain", "score", "removal", "flip", "error")
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    FLIP_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    predict: _explanation_pb2.PredictResponse
    explain: _explanation_pb2.ExplainResponse
    score: _explanation_pb2.ScoreExamplesResponse
    removal: _explanation_pb2.EstimateRemovalResponse
    flip: _explanation_pb2.FindFlipSetResponse
    error: _explanation_pb2.ItemError
    def __init__(self, predict: _Optional[_Union[_explanation_pb2.PredictResponse, _Mapping]] = ..., explain: _Optional[_Union[_explanation_pb2.ExplainResponse, _Mapping]] = ..., score: _Optional[_Union[_explanation_pb2.ScoreExamplesResponse, _Mapping]] = ..., removal: _Optional[_Union[_explanation_pb2.EstimateRemovalResponse, _Mapping]] = ..., flip: _Optional[_Union[_explanation_pb2.FindFlipSetResponse, _Mapping]] = ..., error: _Optional[_Union[_explanation_pb2.ItemError, _Mapping]] = ...) -> None: ...
