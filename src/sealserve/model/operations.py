"""Which operations of a model reach outside of the enclave, and which are TensorFlow's own.

Source: the operations' documentation and registration in tensorflow 2.21, ``tensorflow/core/ops/*.cc`` and
``tensorflow/core/api_def/base_api/``; their kernels in ``tensorflow/core/kernels/``. A test goes through TensorFlow's
registry, and finds each operation that names a file, a folder, an address or a device judged here or there.
"""

import functools
from importlib import resources
from typing import Final

TENSORFLOW_VERSION: Final = "2.21.0"
"""The TensorFlow whose operations are in ``known_operations.txt``: `make operations` writes it."""

_WRITES: Final = "writes files"
_READS: Final = "reads files"
_DEBUG: Final = "sends tensors to files or addresses (debug_urls)"
_SUMMARY: Final = "writes summaries to files"
_DATA_SERVICE: Final = "exchanges data with a tf.data service over the network"
_RPC: Final = "calls other machines, or answers them"
_COLLECTIVE: Final = "exchanges tensors with other machines"
_DEVICE: Final = "moves tensors between devices, which may be other machines"
_HOST_CODE: Final = "runs Python code of the process that made the model"
_CUSTOM_CALL: Final = "runs native code outside of TensorFlow's operations"
_DESCRIPTOR: Final = "reads a descriptor of messages from a file (descriptor_source)"

_REASONS: Final = {
    _WRITES: (
        "WriteFile SaveDataset SaveDatasetV2 DatasetToTFRecord ExperimentalDatasetToTFRecord CacheDataset "
        "CacheDatasetV2 SnapshotDataset SnapshotDatasetV2 DumpTensor CalibrationStatisticsSaver"
    ),
    _READS: (
        "ReadFile MatchingFiles MatchingFilesDataset ExperimentalMatchingFilesDataset WholeFileReader "
        "WholeFileReaderV2 TextLineReader TextLineReaderV2 FixedLengthRecordReader FixedLengthRecordReaderV2 "
        "TFRecordReader TFRecordReaderV2 LMDBReader LMDBDataset ExperimentalLMDBDataset TextLineDataset "
        "FixedLengthRecordDataset FixedLengthRecordDatasetV2 TFRecordDataset TFRecordDatasetV2 CSVDataset "
        "CSVDatasetV2 ExperimentalCSVDataset SqlDataset ExperimentalSqlDataset LoadDataset ListSnapshotChunksDataset "
        "SnapshotDatasetReader SnapshotNestedDatasetReader SnapshotChunkDataset RecordInput LoadAndRemapMatrix "
        "GenerateVocabRemapping ImmutableConst Skipgram FixedUnigramCandidateSampler DTensorRestoreV2"
    ),
    _SUMMARY: (
        "CreateSummaryFileWriter CreateSummaryDbWriter WriteSummary WriteScalarSummary WriteHistogramSummary "
        "WriteImageSummary WriteAudioSummary WriteGraphSummary WriteRawProtoSummary ImportEvent FlushSummaryWriter "
        "CloseSummaryWriter SummaryWriter StatsAggregatorSetSummaryWriter"
    ),
    _DESCRIPTOR: "DecodeProtoV2 EncodeProto",
    "prints tensors to standard error, or to a file": "Print PrintV2",
    "changes how files are reached": "FileSystemSetConfiguration",
    _DEBUG: "DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugNanCount DebugNumericSummary DebugNumericSummaryV2",
    _HOST_CODE: "PyFunc PyFuncStateless EagerPyFunc",
    _CUSTOM_CALL: "XlaCustomCall XlaCustomCallV2 XlaHostCompute _XlaHostComputeMlir",
    _DATA_SERVICE: (
        "DataServiceDataset DataServiceDatasetV2 DataServiceDatasetV3 DataServiceDatasetV4 RegisterDataset "
        "RegisterDatasetV2 DistributedSave"
    ),
    _RPC: (
        "RpcCall RpcCheckStatus RpcClient RpcGetValue RpcServer RpcServerRegister RpcServerStart "
        "DeleteRpcFutureResource RemoteCall"
    ),
    _COLLECTIVE: (
        "CollectiveAllToAllV2 CollectiveAllToAllV3 CollectiveAssignGroupV2 CollectiveBcastRecv CollectiveBcastRecvV2 "
        "CollectiveBcastSend CollectiveBcastSendV2 CollectiveGather CollectiveGatherV2 "
        "CollectiveInitializeCommunicator CollectivePermute CollectiveReduce CollectiveReduceScatterV2 "
        "CollectiveReduceV2 CollectiveReduceV3"
    ),
    _DEVICE: "Send Recv _Send _Recv _HostSend _HostRecv XlaSend XlaRecv XlaSendToHost XlaRecvFromHost",
    "ends the server": "Abort",
}

REFUSED: Final = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Operations that are refused wherever they stand in a model, and why."""

REFUSED_IN_SIGNATURES: Final = {
    **dict.fromkeys(["SaveV2", "Save", "SaveSlices", "MergeV2Checkpoints"], _WRITES),
    **dict.fromkeys(["RestoreV2", "Restore", "RestoreSlice"], _READS),
    **dict.fromkeys(["InitializeTableFromTextFile", "InitializeTableFromTextFileV2"], _READS),
}
"""Operations of each SavedModel, for loading and saving, that are refused only where a client can start them.

A server runs those that load once, on the SavedModel's own sealed files, and those that save never.
"""


@functools.cache
def known_operations() -> frozenset[str]:
    """Return the names of all operations that TensorFlow itself registers."""
    return frozenset(resources.files(__package__).joinpath("known_operations.txt").read_text("ascii").split())
