from proponent.v1 import explanation_pb2 as _explanation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerRequest(_message.Message):
    __slots__ = ("predict", "explain", "score", "removal", "flip", "highlight", "deadline_ns", "ticket", "request_id", "traceparent", "sent_ns")
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    FLIP_FIELD_NUMBER: _ClassVar[int]
    HIGHLIGHT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_NS_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    predict: _explanation_pb2.PredictRequest
    explain: _explanation_pb2.ExplainRequest
    score: _explanation_pb2.ScoreExamplesRequest
    removal: _explanation_pb2.EstimateRemovalRequest
    flip: _explanation_pb2.FindFlipSetRequest
    highlight: _explanation_pb2.HighlightExamplesRequest
    deadline_ns: int
    ticket: int
    request_id: str
    traceparent: str
    sent_ns: int
    def __init__(self, predict: _Optional[_Union[_explanation_pb2.PredictRequest, _Mapping]] = ..., explain: _Optional[_Union[_explanation_pb2.ExplainRequest, _Mapping]] = ..., score: _Optional[_Union[_explanation_pb2.ScoreExamplesRequest, _Mapping]] = ..., removal: _Optional[_Union[_explanation_pb2.EstimateRemovalRequest, _Mapping]] = ..., flip: _Optional[_Union[_explanation_pb2.FindFlipSetRequest, _Mapping]] = ..., highlight: _Optional[_Union[_explanation_pb2.HighlightExamplesRequest, _Mapping]] = ..., deadline_ns: _Optional[int] = ..., ticket: _Optional[int] = ..., request_id: _Optional[str] = ..., traceparent: _Optional[str] = ..., sent_ns: _Optional[int] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("name", "start_ns", "end_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    START_NS_FIELD_NUMBER: _ClassVar[int]
    END_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    start_ns: int
    end_ns: int
    def __init__(self, name: _Optional[str] = ..., start_ns: _Optional[int] = ..., end_ns: _Optional[int] = ...) -> None: ...

class WorkerReply(_message.Message):
    __slots__ = ("predict", "explain", "score", "removal", "flip", "highlight", "error", "stages", "batch_size")
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    FLIP_FIELD_NUMBER: _ClassVar[int]
    HIGHLIGHT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    predict: _explanation_pb2.PredictResponse
    explain: _explanation_pb2.ExplainResponse
    score: _explanation_pb2.ScoreExamplesResponse
    removal: _explanation_pb2.EstimateRemovalResponse
    flip: _explanation_pb2.FindFlipSetResponse
    highlight: _explanation_pb2.HighlightExamplesResponse
    error: _explanation_pb2.ItemError
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    batch_size: int
    def __init__(self, predict: _Optional[_Union[_explanation_pb2.PredictResponse, _Mapping]] = ..., explain: _Optional[_Union[_explanation_pb2.ExplainResponse, _Mapping]] = ..., score: _Optional[_Union[_explanation_pb2.ScoreExamplesResponse, _Mapping]] = ..., removal: _Optional[_Union[_explanation_pb2.EstimateRemovalResponse, _Mapping]] = ..., flip: _Optional[_Union[_explanation_pb2.FindFlipSetResponse, _Mapping]] = ..., highlight: _Optional[_Union[_explanation_pb2.HighlightExamplesResponse, _Mapping]] = ..., error: _Optional[_Union[_explanation_pb2.ItemError, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ..., batch_size: _Optional[int] = ...) -> None: ...
