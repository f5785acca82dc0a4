import datetime

from proponent.v1 import validate_pb2 as _validate_pb2
from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DisclosureLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DISCLOSURE_LEVEL_UNSPECIFIED: _ClassVar[DisclosureLevel]
    DISCLOSURE_LEVEL_LABELS: _ClassVar[DisclosureLevel]
    DISCLOSURE_LEVEL_RANKS: _ClassVar[DisclosureLevel]
    DISCLOSURE_LEVEL_ROUNDED: _ClassVar[DisclosureLevel]
    DISCLOSURE_LEVEL_FULL: _ClassVar[DisclosureLevel]

class Measure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEASURE_UNSPECIFIED: _ClassVar[Measure]
    MEASURE_INFLUENCE: _ClassVar[Measure]
    MEASURE_THETA_RELATIF: _ClassVar[Measure]
    MEASURE_L_RELATIF: _ClassVar[Measure]

class View(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIEW_UNSPECIFIED: _ClassVar[View]
    VIEW_ID_ONLY: _ClassVar[View]
    VIEW_METADATA: _ClassVar[View]
    VIEW_THUMBNAIL: _ClassVar[View]

class Ranking(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RANKING_UNSPECIFIED: _ClassVar[Ranking]
    RANKING_BY_END: _ClassVar[Ranking]
    RANKING_BY_MAGNITUDE: _ClassVar[Ranking]

class Side(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIDE_UNSPECIFIED: _ClassVar[Side]
    SIDE_PROPONENTS: _ClassVar[Side]
    SIDE_OPPONENTS: _ClassVar[Side]

class OrderBy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_BY_UNSPECIFIED: _ClassVar[OrderBy]
    ORDER_BY_SELF_INFLUENCE_DESCENDING: _ClassVar[OrderBy]
    ORDER_BY_SELF_INFLUENCE_ASCENDING: _ClassVar[OrderBy]
    ORDER_BY_EXAMPLE_ID: _ClassVar[OrderBy]
    ORDER_BY_CLASS: _ClassVar[OrderBy]

class Redundancy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REDUNDANCY_UNSPECIFIED: _ClassVar[Redundancy]
    REDUNDANCY_SUM: _ClassVar[Redundancy]
    REDUNDANCY_FACILITY_LOCATION: _ClassVar[Redundancy]
    REDUNDANCY_MMD: _ClassVar[Redundancy]

class DeadlinePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEADLINE_POLICY_UNSPECIFIED: _ClassVar[DeadlinePolicy]
    DEADLINE_POLICY_FAIL_WHEN_LATE: _ClassVar[DeadlinePolicy]
    DEADLINE_POLICY_PREDICTION_ONLY_WHEN_LATE: _ClassVar[DeadlinePolicy]

class InputKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INPUT_KIND_UNSPECIFIED: _ClassVar[InputKind]
    INPUT_KIND_IMAGE: _ClassVar[InputKind]
    INPUT_KIND_TENSOR: _ClassVar[InputKind]
    INPUT_KIND_TEXT: _ClassVar[InputKind]
    INPUT_KIND_RECORD: _ClassVar[InputKind]
    INPUT_KIND_TENSORS: _ClassVar[InputKind]

class ColumnType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLUMN_TYPE_UNSPECIFIED: _ClassVar[ColumnType]
    COLUMN_TYPE_NUMBER: _ClassVar[ColumnType]
    COLUMN_TYPE_CATEGORY: _ClassVar[ColumnType]
    COLUMN_TYPE_FLAG: _ClassVar[ColumnType]
    COLUMN_TYPE_TEXT: _ClassVar[ColumnType]

class Estimator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ESTIMATOR_UNSPECIFIED: _ClassVar[Estimator]
    ESTIMATOR_FIRST_ORDER: _ClassVar[Estimator]
    ESTIMATOR_SECOND_ORDER: _ClassVar[Estimator]
    ESTIMATOR_INFLUENCE_SUM: _ClassVar[Estimator]
DISCLOSURE_LEVEL_UNSPECIFIED: DisclosureLevel
DISCLOSURE_LEVEL_LABELS: DisclosureLevel
DISCLOSURE_LEVEL_RANKS: DisclosureLevel
DISCLOSURE_LEVEL_ROUNDED: DisclosureLevel
DISCLOSURE_LEVEL_FULL: DisclosureLevel
MEASURE_UNSPECIFIED: Measure
MEASURE_INFLUENCE: Measure
MEASURE_THETA_RELATIF: Measure
MEASURE_L_RELATIF: Measure
VIEW_UNSPECIFIED: View
VIEW_ID_ONLY: View
VIEW_METADATA: View
VIEW_THUMBNAIL: View
RANKING_UNSPECIFIED: Ranking
RANKING_BY_END: Ranking
RANKING_BY_MAGNITUDE: Ranking
SIDE_UNSPECIFIED: Side
SIDE_PROPONENTS: Side
SIDE_OPPONENTS: Side
ORDER_BY_UNSPECIFIED: OrderBy
ORDER_BY_SELF_INFLUENCE_DESCENDING: OrderBy
ORDER_BY_SELF_INFLUENCE_ASCENDING: OrderBy
ORDER_BY_EXAMPLE_ID: OrderBy
ORDER_BY_CLASS: OrderBy
REDUNDANCY_UNSPECIFIED: Redundancy
REDUNDANCY_SUM: Redundancy
REDUNDANCY_FACILITY_LOCATION: Redundancy
REDUNDANCY_MMD: Redundancy
DEADLINE_POLICY_UNSPECIFIED: DeadlinePolicy
DEADLINE_POLICY_FAIL_WHEN_LATE: DeadlinePolicy
DEADLINE_POLICY_PREDICTION_ONLY_WHEN_LATE: DeadlinePolicy
INPUT_KIND_UNSPECIFIED: InputKind
INPUT_KIND_IMAGE: InputKind
INPUT_KIND_TENSOR: InputKind
INPUT_KIND_TEXT: InputKind
INPUT_KIND_RECORD: InputKind
INPUT_KIND_TENSORS: InputKind
COLUMN_TYPE_UNSPECIFIED: ColumnType
COLUMN_TYPE_NUMBER: ColumnType
COLUMN_TYPE_CATEGORY: ColumnType
COLUMN_TYPE_FLAG: ColumnType
COLUMN_TYPE_TEXT: ColumnType
ESTIMATOR_UNSPECIFIED: Estimator
ESTIMATOR_FIRST_ORDER: Estimator
ESTIMATOR_SECOND_ORDER: Estimator
ESTIMATOR_INFLUENCE_SUM: Estimator
DISCLOSED_FIELD_NUMBER: _ClassVar[int]
disclosed: _descriptor.FieldDescriptor

class Disclosed(_message.Message):
    __slots__ = ("level", "names_examples")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    NAMES_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    level: DisclosureLevel
    names_examples: bool
    def __init__(self, level: _Optional[_Union[DisclosureLevel, str]] = ..., names_examples: _Optional[bool] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("shape", "dtype", "data")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    data: bytes
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class NamedTensors(_message.Message):
    __slots__ = ("tensors",)
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.MessageMap[str, Tensor]
    def __init__(self, tensors: _Optional[_Mapping[str, Tensor]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("model", "encoded_image", "tensor", "text", "record", "tensors", "request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENCODED_IMAGE_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    encoded_image: bytes
    tensor: Tensor
    text: str
    record: _struct_pb2.Struct
    tensors: NamedTensors
    request_id: str
    def __init__(self, model: _Optional[str] = ..., encoded_image: _Optional[bytes] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., text: _Optional[str] = ..., record: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., tensors: _Optional[_Union[NamedTensors, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("class_id", "label", "probabilities")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    class_id: int
    label: str
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, class_id: _Optional[int] = ..., label: _Optional[str] = ..., probabilities: _Optional[_Iterable[float]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("prediction", "bundle_digest", "request_id")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    bundle_digest: str
    request_id: str
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., bundle_digest: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("class_id", "contrast")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    CONTRAST_FIELD_NUMBER: _ClassVar[int]
    class_id: int
    contrast: Contrast
    def __init__(self, class_id: _Optional[int] = ..., contrast: _Optional[_Union[Contrast, _Mapping]] = ...) -> None: ...

class Contrast(_message.Message):
    __slots__ = ("for_class_id", "against_class_id")
    FOR_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    AGAINST_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    for_class_id: int
    against_class_id: int
    def __init__(self, for_class_id: _Optional[int] = ..., against_class_id: _Optional[int] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("allow_class_ids", "deny_class_ids", "exclude_example_ids")
    ALLOW_CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    DENY_CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_EXAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    allow_class_ids: _containers.RepeatedScalarFieldContainer[int]
    deny_class_ids: _containers.RepeatedScalarFieldContainer[int]
    exclude_example_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, allow_class_ids: _Optional[_Iterable[int]] = ..., deny_class_ids: _Optional[_Iterable[int]] = ..., exclude_example_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Diversity(_message.Message):
    __slots__ = ("redundancy", "gamma", "max_influence_loss", "candidates", "bandwidth", "whole_dataset", "unscaled")
    REDUNDANCY_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    MAX_INFLUENCE_LOSS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_FIELD_NUMBER: _ClassVar[int]
    WHOLE_DATASET_FIELD_NUMBER: _ClassVar[int]
    UNSCALED_FIELD_NUMBER: _ClassVar[int]
    redundancy: Redundancy
    gamma: float
    max_influence_loss: float
    candidates: int
    bandwidth: float
    whole_dataset: bool
    unscaled: bool
    def __init__(self, redundancy: _Optional[_Union[Redundancy, str]] = ..., gamma: _Optional[float] = ..., max_influence_loss: _Optional[float] = ..., candidates: _Optional[int] = ..., bandwidth: _Optional[float] = ..., whole_dataset: _Optional[bool] = ..., unscaled: _Optional[bool] = ...) -> None: ...

class ExplainIf(_message.Message):
    __slots__ = ("confidence_below", "sampled_share")
    CONFIDENCE_BELOW_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_SHARE_FIELD_NUMBER: _ClassVar[int]
    confidence_below: float
    sampled_share: float
    def __init__(self, confidence_below: _Optional[float] = ..., sampled_share: _Optional[float] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("model", "encoded_image", "tensor", "text", "record", "tensors", "measures", "top_k", "target", "filter", "diversity", "view", "request_id", "deadline_policy", "explain_if", "ranking")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENCODED_IMAGE_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_POLICY_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_IF_FIELD_NUMBER: _ClassVar[int]
    RANKING_FIELD_NUMBER: _ClassVar[int]
    model: str
    encoded_image: bytes
    tensor: Tensor
    text: str
    record: _struct_pb2.Struct
    tensors: NamedTensors
    measures: _containers.RepeatedScalarFieldContainer[Measure]
    top_k: int
    target: Target
    filter: Filter
    diversity: Diversity
    view: View
    request_id: str
    deadline_policy: DeadlinePolicy
    explain_if: ExplainIf
    ranking: Ranking
    def __init__(self, model: _Optional[str] = ..., encoded_image: _Optional[bytes] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., text: _Optional[str] = ..., record: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., tensors: _Optional[_Union[NamedTensors, _Mapping]] = ..., measures: _Optional[_Iterable[_Union[Measure, str]]] = ..., top_k: _Optional[int] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., diversity: _Optional[_Union[Diversity, _Mapping]] = ..., view: _Optional[_Union[View, str]] = ..., request_id: _Optional[str] = ..., deadline_policy: _Optional[_Union[DeadlinePolicy, str]] = ..., explain_if: _Optional[_Union[ExplainIf, _Mapping]] = ..., ranking: _Optional[_Union[Ranking, str]] = ...) -> None: ...

class Influence(_message.Message):
    __slots__ = ("example_id", "score", "rank", "class_id", "label", "predicted_class_id", "self_influence", "source", "thumbnail", "text", "record")
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    SELF_INFLUENCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    score: float
    rank: int
    class_id: int
    label: str
    predicted_class_id: int
    self_influence: float
    source: str
    thumbnail: bytes
    text: str
    record: _struct_pb2.Struct
    def __init__(self, example_id: _Optional[str] = ..., score: _Optional[float] = ..., rank: _Optional[int] = ..., class_id: _Optional[int] = ..., label: _Optional[str] = ..., predicted_class_id: _Optional[int] = ..., self_influence: _Optional[float] = ..., source: _Optional[str] = ..., thumbnail: _Optional[bytes] = ..., text: _Optional[str] = ..., record: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class DiversityOutcome(_message.Message):
    __slots__ = ("influence_kept", "redundancy_gained", "mean_similarity", "plain_similarity")
    INFLUENCE_KEPT_FIELD_NUMBER: _ClassVar[int]
    REDUNDANCY_GAINED_FIELD_NUMBER: _ClassVar[int]
    MEAN_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    PLAIN_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    influence_kept: float
    redundancy_gained: float
    mean_similarity: float
    plain_similarity: float
    def __init__(self, influence_kept: _Optional[float] = ..., redundancy_gained: _Optional[float] = ..., mean_similarity: _Optional[float] = ..., plain_similarity: _Optional[float] = ...) -> None: ...

class MeasureResult(_message.Message):
    __slots__ = ("measure", "proponents", "opponents", "proponents_diversity", "opponents_diversity")
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    PROPONENTS_FIELD_NUMBER: _ClassVar[int]
    OPPONENTS_FIELD_NUMBER: _ClassVar[int]
    PROPONENTS_DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    OPPONENTS_DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    measure: Measure
    proponents: _containers.RepeatedCompositeFieldContainer[Influence]
    opponents: _containers.RepeatedCompositeFieldContainer[Influence]
    proponents_diversity: DiversityOutcome
    opponents_diversity: DiversityOutcome
    def __init__(self, measure: _Optional[_Union[Measure, str]] = ..., proponents: _Optional[_Iterable[_Union[Influence, _Mapping]]] = ..., opponents: _Optional[_Iterable[_Union[Influence, _Mapping]]] = ..., proponents_diversity: _Optional[_Union[DiversityOutcome, _Mapping]] = ..., opponents_diversity: _Optional[_Union[DiversityOutcome, _Mapping]] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("code", "message", "count")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[Notice.Code]
        CODE_K_CAPPED: _ClassVar[Notice.Code]
        CODE_ZERO_INFLUENCE: _ClassVar[Notice.Code]
        CODE_NO_DIRECTION: _ClassVar[Notice.Code]
        CODE_ROWS_OMITTED: _ClassVar[Notice.Code]
        CODE_CANDIDATES_CAPPED: _ClassVar[Notice.Code]
        CODE_LAYERS_UNCOVERED: _ClassVar[Notice.Code]
        CODE_NO_FLIP_FOUND: _ClassVar[Notice.Code]
        CODE_PARAMETERS_FROZEN: _ClassVar[Notice.Code]
        CODE_EXPLANATION_LATE: _ClassVar[Notice.Code]
        CODE_EXPLANATION_SKIPPED: _ClassVar[Notice.Code]
        CODE_SCORES_DISTILLED: _ClassVar[Notice.Code]
    CODE_UNSPECIFIED: Notice.Code
    CODE_K_CAPPED: Notice.Code
    CODE_ZERO_INFLUENCE: Notice.Code
    CODE_NO_DIRECTION: Notice.Code
    CODE_ROWS_OMITTED: Notice.Code
    CODE_CANDIDATES_CAPPED: Notice.Code
    CODE_LAYERS_UNCOVERED: Notice.Code
    CODE_NO_FLIP_FOUND: Notice.Code
    CODE_PARAMETERS_FROZEN: Notice.Code
    CODE_EXPLANATION_LATE: Notice.Code
    CODE_EXPLANATION_SKIPPED: Notice.Code
    CODE_SCORES_DISTILLED: Notice.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    code: Notice.Code
    message: str
    count: int
    def __init__(self, code: _Optional[_Union[Notice.Code, str]] = ..., message: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Quality(_message.Message):
    __slots__ = ("curvature", "kept_energy", "audit")
    CURVATURE_FIELD_NUMBER: _ClassVar[int]
    KEPT_ENERGY_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    curvature: str
    kept_energy: float
    audit: _struct_pb2.Struct
    def __init__(self, curvature: _Optional[str] = ..., kept_energy: _Optional[float] = ..., audit: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("stage", "duration")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    stage: str
    duration: _duration_pb2.Duration
    def __init__(self, stage: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("prediction", "results", "target_class_id", "bundle_digest", "quality", "train_size", "notices", "timings", "explanation_id", "request_id", "disclosure_level", "against_class_id")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    TARGET_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    AGAINST_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    results: _containers.RepeatedCompositeFieldContainer[MeasureResult]
    target_class_id: int
    bundle_digest: str
    quality: Quality
    train_size: int
    notices: _containers.RepeatedCompositeFieldContainer[Notice]
    timings: _containers.RepeatedCompositeFieldContainer[Timing]
    explanation_id: str
    request_id: str
    disclosure_level: DisclosureLevel
    against_class_id: int
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., results: _Optional[_Iterable[_Union[MeasureResult, _Mapping]]] = ..., target_class_id: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., quality: _Optional[_Union[Quality, _Mapping]] = ..., train_size: _Optional[int] = ..., notices: _Optional[_Iterable[_Union[Notice, _Mapping]]] = ..., timings: _Optional[_Iterable[_Union[Timing, _Mapping]]] = ..., explanation_id: _Optional[str] = ..., request_id: _Optional[str] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ..., against_class_id: _Optional[int] = ...) -> None: ...

class StreamExplainRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: ExplainRequest
    def __init__(self, request: _Optional[_Union[ExplainRequest, _Mapping]] = ...) -> None: ...

class StreamExplainResponse(_message.Message):
    __slots__ = ("request_id", "response", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    response: ExplainResponse
    error: ItemError
    def __init__(self, request_id: _Optional[str] = ..., response: _Optional[_Union[ExplainResponse, _Mapping]] = ..., error: _Optional[_Union[ItemError, _Mapping]] = ...) -> None: ...

class ItemError(_message.Message):
    __slots__ = ("code", "reason", "message", "field")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    field: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ...) -> None: ...

class GetExampleRequest(_message.Message):
    __slots__ = ("model", "example_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    example_id: str
    def __init__(self, model: _Optional[str] = ..., example_id: _Optional[str] = ...) -> None: ...

class GetExampleResponse(_message.Message):
    __slots__ = ("example", "bundle_digest", "disclosure_level")
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    example: Example
    bundle_digest: str
    disclosure_level: DisclosureLevel
    def __init__(self, example: _Optional[_Union[Example, _Mapping]] = ..., bundle_digest: _Optional[str] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ...) -> None: ...

class Example(_message.Message):
    __slots__ = ("example_id", "class_id", "label", "predicted_class_id", "self_influence", "source", "thumbnail", "is_label_issue", "text", "record")
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    SELF_INFLUENCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    IS_LABEL_ISSUE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    class_id: int
    label: str
    predicted_class_id: int
    self_influence: float
    source: str
    thumbnail: bytes
    is_label_issue: bool
    text: str
    record: _struct_pb2.Struct
    def __init__(self, example_id: _Optional[str] = ..., class_id: _Optional[int] = ..., label: _Optional[str] = ..., predicted_class_id: _Optional[int] = ..., self_influence: _Optional[float] = ..., source: _Optional[str] = ..., thumbnail: _Optional[bytes] = ..., is_label_issue: _Optional[bool] = ..., text: _Optional[str] = ..., record: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("name", "ready", "unavailable_reason", "unavailable_detail")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_DETAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    ready: bool
    unavailable_reason: str
    unavailable_detail: str
    def __init__(self, name: _Optional[str] = ..., ready: _Optional[bool] = ..., unavailable_reason: _Optional[str] = ..., unavailable_detail: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model", "bundle_digest", "weights_sha256", "curvature", "damping", "damping_relative", "embedding_size", "train_size", "class_names", "input_shape", "kept_energy", "audit", "loss", "created", "uncovered_share", "uncovered", "image_size", "image_mode", "frozen_share", "frozen", "allow_examples", "allow_thumbnails", "allow_samples", "samples", "train_accuracy", "disclosure_level", "unavailable_reason", "unavailable_detail", "teachers", "input_signature")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    CURVATURE_FIELD_NUMBER: _ClassVar[int]
    DAMPING_FIELD_NUMBER: _ClassVar[int]
    DAMPING_RELATIVE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SIZE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    KEPT_ENERGY_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    UNCOVERED_SHARE_FIELD_NUMBER: _ClassVar[int]
    UNCOVERED_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_MODE_FIELD_NUMBER: _ClassVar[int]
    FROZEN_SHARE_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    ALLOW_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    ALLOW_THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_DETAIL_FIELD_NUMBER: _ClassVar[int]
    TEACHERS_FIELD_NUMBER: _ClassVar[int]
    INPUT_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    model: str
    bundle_digest: str
    weights_sha256: str
    curvature: str
    damping: float
    damping_relative: bool
    embedding_size: int
    train_size: int
    class_names: _containers.RepeatedScalarFieldContainer[str]
    input_shape: _containers.RepeatedScalarFieldContainer[int]
    kept_energy: float
    audit: _struct_pb2.Struct
    loss: str
    created: str
    uncovered_share: float
    uncovered: _containers.RepeatedScalarFieldContainer[str]
    image_size: _containers.RepeatedScalarFieldContainer[int]
    image_mode: str
    frozen_share: float
    frozen: _containers.RepeatedScalarFieldContainer[str]
    allow_examples: bool
    allow_thumbnails: bool
    allow_samples: bool
    samples: int
    train_accuracy: float
    disclosure_level: DisclosureLevel
    unavailable_reason: str
    unavailable_detail: str
    teachers: int
    input_signature: InputSignature
    def __init__(self, model: _Optional[str] = ..., bundle_digest: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., curvature: _Optional[str] = ..., damping: _Optional[float] = ..., damping_relative: _Optional[bool] = ..., embedding_size: _Optional[int] = ..., train_size: _Optional[int] = ..., class_names: _Optional[_Iterable[str]] = ..., input_shape: _Optional[_Iterable[int]] = ..., kept_energy: _Optional[float] = ..., audit: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., loss: _Optional[str] = ..., created: _Optional[str] = ..., uncovered_share: _Optional[float] = ..., uncovered: _Optional[_Iterable[str]] = ..., image_size: _Optional[_Iterable[int]] = ..., image_mode: _Optional[str] = ..., frozen_share: _Optional[float] = ..., frozen: _Optional[_Iterable[str]] = ..., allow_examples: _Optional[bool] = ..., allow_thumbnails: _Optional[bool] = ..., allow_samples: _Optional[bool] = ..., samples: _Optional[int] = ..., train_accuracy: _Optional[float] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ..., unavailable_reason: _Optional[str] = ..., unavailable_detail: _Optional[str] = ..., teachers: _Optional[int] = ..., input_signature: _Optional[_Union[InputSignature, _Mapping]] = ...) -> None: ...

class InputSignature(_message.Message):
    __slots__ = ("kind", "max_text_length", "columns", "tensors")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    kind: InputKind
    max_text_length: int
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    tensors: _containers.RepeatedCompositeFieldContainer[TensorSignature]
    def __init__(self, kind: _Optional[_Union[InputKind, str]] = ..., max_text_length: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., tensors: _Optional[_Iterable[_Union[TensorSignature, _Mapping]]] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "type", "categories", "optional")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: ColumnType
    categories: _containers.RepeatedScalarFieldContainer[str]
    optional: bool
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[ColumnType, str]] = ..., categories: _Optional[_Iterable[str]] = ..., optional: _Optional[bool] = ...) -> None: ...

class TensorSignature(_message.Message):
    __slots__ = ("name", "dtype", "shape", "min_value", "max_value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    MIN_VALUE_FIELD_NUMBER: _ClassVar[int]
    MAX_VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    min_value: int
    max_value: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., min_value: _Optional[int] = ..., max_value: _Optional[int] = ...) -> None: ...

class ScoreExamplesRequest(_message.Message):
    __slots__ = ("query", "example_ids")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    query: ExplainRequest
    example_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, query: _Optional[_Union[ExplainRequest, _Mapping]] = ..., example_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class MeasureScores(_message.Message):
    __slots__ = ("measure", "scores")
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    measure: Measure
    scores: _containers.RepeatedCompositeFieldContainer[Influence]
    def __init__(self, measure: _Optional[_Union[Measure, str]] = ..., scores: _Optional[_Iterable[_Union[Influence, _Mapping]]] = ...) -> None: ...

class ScoreExamplesResponse(_message.Message):
    __slots__ = ("prediction", "results", "bundle_digest", "notices", "train_size", "disclosure_level")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    results: _containers.RepeatedCompositeFieldContainer[MeasureScores]
    bundle_digest: str
    notices: _containers.RepeatedCompositeFieldContainer[Notice]
    train_size: int
    disclosure_level: DisclosureLevel
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., results: _Optional[_Iterable[_Union[MeasureScores, _Mapping]]] = ..., bundle_digest: _Optional[str] = ..., notices: _Optional[_Iterable[_Union[Notice, _Mapping]]] = ..., train_size: _Optional[int] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ...) -> None: ...

class HighlightExamplesRequest(_message.Message):
    __slots__ = ("query", "example_ids")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    query: ExplainRequest
    example_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, query: _Optional[_Union[ExplainRequest, _Mapping]] = ..., example_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class WeighedWord(_message.Message):
    __slots__ = ("start", "end", "weight")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    weight: float
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., weight: _Optional[float] = ...) -> None: ...

class Highlight(_message.Message):
    __slots__ = ("example_id", "score", "asked", "example", "text", "unavailable")
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    score: float
    asked: _containers.RepeatedCompositeFieldContainer[WeighedWord]
    example: _containers.RepeatedCompositeFieldContainer[WeighedWord]
    text: str
    unavailable: str
    def __init__(self, example_id: _Optional[str] = ..., score: _Optional[float] = ..., asked: _Optional[_Iterable[_Union[WeighedWord, _Mapping]]] = ..., example: _Optional[_Iterable[_Union[WeighedWord, _Mapping]]] = ..., text: _Optional[str] = ..., unavailable: _Optional[str] = ...) -> None: ...

class HighlightExamplesResponse(_message.Message):
    __slots__ = ("prediction", "highlights", "target_class_id", "against_class_id", "bundle_digest", "disclosure_level")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    HIGHLIGHTS_FIELD_NUMBER: _ClassVar[int]
    TARGET_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    AGAINST_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    highlights: _containers.RepeatedCompositeFieldContainer[Highlight]
    target_class_id: int
    against_class_id: int
    bundle_digest: str
    disclosure_level: DisclosureLevel
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., highlights: _Optional[_Iterable[_Union[Highlight, _Mapping]]] = ..., target_class_id: _Optional[int] = ..., against_class_id: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ...) -> None: ...

class EstimateRemovalRequest(_message.Message):
    __slots__ = ("query", "example_ids", "second_order", "estimator")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_IDS_FIELD_NUMBER: _ClassVar[int]
    SECOND_ORDER_FIELD_NUMBER: _ClassVar[int]
    ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    query: ExplainRequest
    example_ids: _containers.RepeatedScalarFieldContainer[str]
    second_order: bool
    estimator: Estimator
    def __init__(self, query: _Optional[_Union[ExplainRequest, _Mapping]] = ..., example_ids: _Optional[_Iterable[str]] = ..., second_order: _Optional[bool] = ..., estimator: _Optional[_Union[Estimator, str]] = ...) -> None: ...

class EstimateRemovalResponse(_message.Message):
    __slots__ = ("prediction", "loss_change", "probabilities_after", "bundle_digest", "notices", "group_size", "train_size", "disclosure_level")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    LOSS_CHANGE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_AFTER_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    GROUP_SIZE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    loss_change: float
    probabilities_after: _containers.RepeatedScalarFieldContainer[float]
    bundle_digest: str
    notices: _containers.RepeatedCompositeFieldContainer[Notice]
    group_size: int
    train_size: int
    disclosure_level: DisclosureLevel
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., loss_change: _Optional[float] = ..., probabilities_after: _Optional[_Iterable[float]] = ..., bundle_digest: _Optional[str] = ..., notices: _Optional[_Iterable[_Union[Notice, _Mapping]]] = ..., group_size: _Optional[int] = ..., train_size: _Optional[int] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ...) -> None: ...

class FindFlipSetRequest(_message.Message):
    __slots__ = ("query", "max_size")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    MAX_SIZE_FIELD_NUMBER: _ClassVar[int]
    query: ExplainRequest
    max_size: int
    def __init__(self, query: _Optional[_Union[ExplainRequest, _Mapping]] = ..., max_size: _Optional[int] = ...) -> None: ...

class FindFlipSetResponse(_message.Message):
    __slots__ = ("prediction", "members", "flipped_class_id", "probabilities_after", "bundle_digest", "notices", "disclosure_level")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    FLIPPED_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_AFTER_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    members: _containers.RepeatedCompositeFieldContainer[Influence]
    flipped_class_id: int
    probabilities_after: _containers.RepeatedScalarFieldContainer[float]
    bundle_digest: str
    notices: _containers.RepeatedCompositeFieldContainer[Notice]
    disclosure_level: DisclosureLevel
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., members: _Optional[_Iterable[_Union[Influence, _Mapping]]] = ..., flipped_class_id: _Optional[int] = ..., probabilities_after: _Optional[_Iterable[float]] = ..., bundle_digest: _Optional[str] = ..., notices: _Optional[_Iterable[_Union[Notice, _Mapping]]] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ...) -> None: ...

class ListSuspectsRequest(_message.Message):
    __slots__ = ("model", "limit", "offset", "page_token")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model: str
    limit: int
    offset: int
    page_token: str
    def __init__(self, model: _Optional[str] = ..., limit: _Optional[int] = ..., offset: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class Suspect(_message.Message):
    __slots__ = ("example_id", "is_label_issue", "label_score", "given_class_id", "predicted_class_id", "self_influence")
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    IS_LABEL_ISSUE_FIELD_NUMBER: _ClassVar[int]
    LABEL_SCORE_FIELD_NUMBER: _ClassVar[int]
    GIVEN_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    SELF_INFLUENCE_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    is_label_issue: bool
    label_score: float
    given_class_id: int
    predicted_class_id: int
    self_influence: float
    def __init__(self, example_id: _Optional[str] = ..., is_label_issue: _Optional[bool] = ..., label_score: _Optional[float] = ..., given_class_id: _Optional[int] = ..., predicted_class_id: _Optional[int] = ..., self_influence: _Optional[float] = ...) -> None: ...

class ListSuspectsResponse(_message.Message):
    __slots__ = ("suspects", "bundle_digest", "total", "next_page_token", "disclosure_level")
    SUSPECTS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    suspects: _containers.RepeatedCompositeFieldContainer[Suspect]
    bundle_digest: str
    total: int
    next_page_token: str
    disclosure_level: DisclosureLevel
    def __init__(self, suspects: _Optional[_Iterable[_Union[Suspect, _Mapping]]] = ..., bundle_digest: _Optional[str] = ..., total: _Optional[int] = ..., next_page_token: _Optional[str] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ...) -> None: ...

class ListSamplesRequest(_message.Message):
    __slots__ = ("model", "page_size", "page_token", "view")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    model: str
    page_size: int
    page_token: str
    view: View
    def __init__(self, model: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., view: _Optional[_Union[View, str]] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("sample_id", "class_id", "label", "predicted_class_id", "encoded_image", "tensor", "text", "record", "tensors", "thumbnail")
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    ENCODED_IMAGE_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    sample_id: str
    class_id: int
    label: str
    predicted_class_id: int
    encoded_image: bytes
    tensor: Tensor
    text: str
    record: _struct_pb2.Struct
    tensors: NamedTensors
    thumbnail: bytes
    def __init__(self, sample_id: _Optional[str] = ..., class_id: _Optional[int] = ..., label: _Optional[str] = ..., predicted_class_id: _Optional[int] = ..., encoded_image: _Optional[bytes] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., text: _Optional[str] = ..., record: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., tensors: _Optional[_Union[NamedTensors, _Mapping]] = ..., thumbnail: _Optional[bytes] = ...) -> None: ...

class ListSamplesResponse(_message.Message):
    __slots__ = ("samples", "bundle_digest", "total", "next_page_token")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    bundle_digest: str
    total: int
    next_page_token: str
    def __init__(self, samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ..., bundle_digest: _Optional[str] = ..., total: _Optional[int] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetSampleRequest(_message.Message):
    __slots__ = ("model", "sample_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    sample_id: str
    def __init__(self, model: _Optional[str] = ..., sample_id: _Optional[str] = ...) -> None: ...

class GetSampleResponse(_message.Message):
    __slots__ = ("sample", "bundle_digest")
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    sample: Sample
    bundle_digest: str
    def __init__(self, sample: _Optional[_Union[Sample, _Mapping]] = ..., bundle_digest: _Optional[str] = ...) -> None: ...

class ListExamplesRequest(_message.Message):
    __slots__ = ("model", "class_ids", "predicted_class_ids", "disagreeing", "min_self_influence", "max_self_influence", "order_by", "page_size", "page_token", "view")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    DISAGREEING_FIELD_NUMBER: _ClassVar[int]
    MIN_SELF_INFLUENCE_FIELD_NUMBER: _ClassVar[int]
    MAX_SELF_INFLUENCE_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    model: str
    class_ids: _containers.RepeatedScalarFieldContainer[int]
    predicted_class_ids: _containers.RepeatedScalarFieldContainer[int]
    disagreeing: bool
    min_self_influence: float
    max_self_influence: float
    order_by: OrderBy
    page_size: int
    page_token: str
    view: View
    def __init__(self, model: _Optional[str] = ..., class_ids: _Optional[_Iterable[int]] = ..., predicted_class_ids: _Optional[_Iterable[int]] = ..., disagreeing: _Optional[bool] = ..., min_self_influence: _Optional[float] = ..., max_self_influence: _Optional[float] = ..., order_by: _Optional[_Union[OrderBy, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., view: _Optional[_Union[View, str]] = ...) -> None: ...

class ListExamplesResponse(_message.Message):
    __slots__ = ("examples", "bundle_digest", "total", "next_page_token", "disclosure_level")
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    examples: _containers.RepeatedCompositeFieldContainer[Example]
    bundle_digest: str
    total: int
    next_page_token: str
    disclosure_level: DisclosureLevel
    def __init__(self, examples: _Optional[_Iterable[_Union[Example, _Mapping]]] = ..., bundle_digest: _Optional[str] = ..., total: _Optional[int] = ..., next_page_token: _Optional[str] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ...) -> None: ...

class SummarizeExamplesRequest(_message.Message):
    __slots__ = ("model", "bins")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    model: str
    bins: int
    def __init__(self, model: _Optional[str] = ..., bins: _Optional[int] = ...) -> None: ...

class ClassSummary(_message.Message):
    __slots__ = ("class_id", "label", "count", "predicted_count", "disagreeing_count", "label_issues", "mean_self_influence", "median_self_influence")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DISAGREEING_COUNT_FIELD_NUMBER: _ClassVar[int]
    LABEL_ISSUES_FIELD_NUMBER: _ClassVar[int]
    MEAN_SELF_INFLUENCE_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_SELF_INFLUENCE_FIELD_NUMBER: _ClassVar[int]
    class_id: int
    label: str
    count: int
    predicted_count: int
    disagreeing_count: int
    label_issues: int
    mean_self_influence: float
    median_self_influence: float
    def __init__(self, class_id: _Optional[int] = ..., label: _Optional[str] = ..., count: _Optional[int] = ..., predicted_count: _Optional[int] = ..., disagreeing_count: _Optional[int] = ..., label_issues: _Optional[int] = ..., mean_self_influence: _Optional[float] = ..., median_self_influence: _Optional[float] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("edges", "counts", "zeros")
    EDGES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    ZEROS_FIELD_NUMBER: _ClassVar[int]
    edges: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    zeros: int
    def __init__(self, edges: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., zeros: _Optional[int] = ...) -> None: ...

class SummarizeExamplesResponse(_message.Message):
    __slots__ = ("classes", "histogram", "total", "label_issues", "bundle_digest", "disclosure_level")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    LABEL_ISSUES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[ClassSummary]
    histogram: Histogram
    total: int
    label_issues: int
    bundle_digest: str
    disclosure_level: DisclosureLevel
    def __init__(self, classes: _Optional[_Iterable[_Union[ClassSummary, _Mapping]]] = ..., histogram: _Optional[_Union[Histogram, _Mapping]] = ..., total: _Optional[int] = ..., label_issues: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ...) -> None: ...

class ListFrequentExamplesRequest(_message.Message):
    __slots__ = ("model", "measure", "side", "top_k", "limit", "view")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    model: str
    measure: Measure
    side: Side
    top_k: int
    limit: int
    view: View
    def __init__(self, model: _Optional[str] = ..., measure: _Optional[_Union[Measure, str]] = ..., side: _Optional[_Union[Side, str]] = ..., top_k: _Optional[int] = ..., limit: _Optional[int] = ..., view: _Optional[_Union[View, str]] = ...) -> None: ...

class FrequentExample(_message.Message):
    __slots__ = ("example", "count")
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    example: Example
    count: int
    def __init__(self, example: _Optional[_Union[Example, _Mapping]] = ..., count: _Optional[int] = ...) -> None: ...

class ListFrequentExamplesResponse(_message.Message):
    __slots__ = ("examples", "lists", "slots", "distinct", "top_k", "max_top_k", "samples", "bundle_digest", "disclosure_level")
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LISTS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    examples: _containers.RepeatedCompositeFieldContainer[FrequentExample]
    lists: int
    slots: int
    distinct: int
    top_k: int
    max_top_k: int
    samples: int
    bundle_digest: str
    disclosure_level: DisclosureLevel
    def __init__(self, examples: _Optional[_Iterable[_Union[FrequentExample, _Mapping]]] = ..., lists: _Optional[int] = ..., slots: _Optional[int] = ..., distinct: _Optional[int] = ..., top_k: _Optional[int] = ..., max_top_k: _Optional[int] = ..., samples: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ...) -> None: ...

class ListBundlesRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class BundleSummary(_message.Message):
    __slots__ = ("digest", "is_current", "is_previous", "created", "curvature", "damping", "damping_relative", "embedding_size", "train_size", "forgotten", "train_accuracy", "kept_energy", "loss", "weights_sha256", "size_bytes", "audit", "samples", "error")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    IS_CURRENT_FIELD_NUMBER: _ClassVar[int]
    IS_PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    CURVATURE_FIELD_NUMBER: _ClassVar[int]
    DAMPING_FIELD_NUMBER: _ClassVar[int]
    DAMPING_RELATIVE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SIZE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SIZE_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    KEPT_ENERGY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    digest: str
    is_current: bool
    is_previous: bool
    created: str
    curvature: str
    damping: float
    damping_relative: bool
    embedding_size: int
    train_size: int
    forgotten: int
    train_accuracy: float
    kept_energy: float
    loss: str
    weights_sha256: str
    size_bytes: int
    audit: _struct_pb2.Struct
    samples: int
    error: str
    def __init__(self, digest: _Optional[str] = ..., is_current: _Optional[bool] = ..., is_previous: _Optional[bool] = ..., created: _Optional[str] = ..., curvature: _Optional[str] = ..., damping: _Optional[float] = ..., damping_relative: _Optional[bool] = ..., embedding_size: _Optional[int] = ..., train_size: _Optional[int] = ..., forgotten: _Optional[int] = ..., train_accuracy: _Optional[float] = ..., kept_energy: _Optional[float] = ..., loss: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., audit: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., samples: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class ListBundlesResponse(_message.Message):
    __slots__ = ("bundles",)
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    bundles: _containers.RepeatedCompositeFieldContainer[BundleSummary]
    def __init__(self, bundles: _Optional[_Iterable[_Union[BundleSummary, _Mapping]]] = ...) -> None: ...

class DiffBundlesRequest(_message.Message):
    __slots__ = ("model", "base", "other", "measure", "top_k")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    model: str
    base: str
    other: str
    measure: Measure
    top_k: int
    def __init__(self, model: _Optional[str] = ..., base: _Optional[str] = ..., other: _Optional[str] = ..., measure: _Optional[_Union[Measure, str]] = ..., top_k: _Optional[int] = ...) -> None: ...

class DiffSummary(_message.Message):
    __slots__ = ("samples", "overlap", "predictions_changed")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_CHANGED_FIELD_NUMBER: _ClassVar[int]
    samples: int
    overlap: float
    predictions_changed: int
    def __init__(self, samples: _Optional[int] = ..., overlap: _Optional[float] = ..., predictions_changed: _Optional[int] = ...) -> None: ...

class ClassDiff(_message.Message):
    __slots__ = ("class_id", "label", "summary")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    class_id: int
    label: str
    summary: DiffSummary
    def __init__(self, class_id: _Optional[int] = ..., label: _Optional[str] = ..., summary: _Optional[_Union[DiffSummary, _Mapping]] = ...) -> None: ...

class SampleDiff(_message.Message):
    __slots__ = ("sample_id", "class_id", "overlap", "base_class_id", "other_class_id", "entered_proponents", "left_proponents", "entered_opponents", "left_opponents")
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    BASE_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    OTHER_CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    ENTERED_PROPONENTS_FIELD_NUMBER: _ClassVar[int]
    LEFT_PROPONENTS_FIELD_NUMBER: _ClassVar[int]
    ENTERED_OPPONENTS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OPPONENTS_FIELD_NUMBER: _ClassVar[int]
    sample_id: str
    class_id: int
    overlap: float
    base_class_id: int
    other_class_id: int
    entered_proponents: _containers.RepeatedScalarFieldContainer[str]
    left_proponents: _containers.RepeatedScalarFieldContainer[str]
    entered_opponents: _containers.RepeatedScalarFieldContainer[str]
    left_opponents: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sample_id: _Optional[str] = ..., class_id: _Optional[int] = ..., overlap: _Optional[float] = ..., base_class_id: _Optional[int] = ..., other_class_id: _Optional[int] = ..., entered_proponents: _Optional[_Iterable[str]] = ..., left_proponents: _Optional[_Iterable[str]] = ..., entered_opponents: _Optional[_Iterable[str]] = ..., left_opponents: _Optional[_Iterable[str]] = ...) -> None: ...

class DiffBundlesResponse(_message.Message):
    __slots__ = ("base", "other", "measure", "top_k", "max_top_k", "samples", "overall", "per_class", "per_sample", "disclosure_level")
    BASE_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    OVERALL_FIELD_NUMBER: _ClassVar[int]
    PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    DISCLOSURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    base: str
    other: str
    measure: Measure
    top_k: int
    max_top_k: int
    samples: int
    overall: DiffSummary
    per_class: _containers.RepeatedCompositeFieldContainer[ClassDiff]
    per_sample: _containers.RepeatedCompositeFieldContainer[SampleDiff]
    disclosure_level: DisclosureLevel
    def __init__(self, base: _Optional[str] = ..., other: _Optional[str] = ..., measure: _Optional[_Union[Measure, str]] = ..., top_k: _Optional[int] = ..., max_top_k: _Optional[int] = ..., samples: _Optional[int] = ..., overall: _Optional[_Union[DiffSummary, _Mapping]] = ..., per_class: _Optional[_Iterable[_Union[ClassDiff, _Mapping]]] = ..., per_sample: _Optional[_Iterable[_Union[SampleDiff, _Mapping]]] = ..., disclosure_level: _Optional[_Union[DisclosureLevel, str]] = ...) -> None: ...
