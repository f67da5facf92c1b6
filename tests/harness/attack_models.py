"""SavedModels that reach out of the enclave, or keep what a client sent, each in another way.

They are written with TensorFlow's own messages, without its exporter, which would not make most of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Build = Callable[[Any, "Surroundings"], "Parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is around a model on the host.

    Args:
        secret: A file that the model must not read. Its first line is ``SECRET``.
        written: A file that the model must not write.
        assets: The model's own folder of assets, with the file ``words.txt``.
    """

    secret: Path
    written: Path
    assets: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a model is built of, beside its graph.

    Args:
        x: The input: the name of a string tensor.
        y: The output.
        init: The operation that initialises it.
        main_op: The same, as older SavedModels name it.
        legacy: The same, as the oldest name it.
        assets: Tensors that are fed with assets' paths, each with the file's name.
        collected: Whether the assets are listed as older SavedModels list them.
        saver: The saver's file name tensor and restore operation.
        signatures: Further signatures: name, alias and tensor of the output.
        change: What changes the meta graph at last.
    """

    x: str = "x:0"
    y: str
    init: str | None = None
    main_op: str | None = None
    legacy: str | None = None
    assets: Sequence[tuple[str, str]] = ()
    collected: bool = False
    saver: tuple[str, str] | None = None
    signatures: Sequence[tuple[str, str, str]] = ()
    change: Callable[[Any], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A model that is refused.

    Args:
        build: What makes its graph.
        refused: The operations that the lint refuses, or the code of its error.
        reveals: Whether it answers with the secret when it is served.
        writes: Whether it writes a file when it is served.
        tags: The tags of its graph.
        checkpoint: Whether ``variables/`` is there.
        encode: What changes the serialised SavedModel at last.
    """

    build: Build
    refused: tuple[str, ...] | str
    reveals: bool = False
    writes: bool = False
    tags: tuple[str, ...] = ("serve",)
    checkpoint: bool = False
    encode: Callable[[bytes], bytes] | None = None


def write(attack: Attack, folder: Path, around: Surroundings) -> Path:
    """Write the attack as a SavedModel, and return its folder."""
    import tensorflow as tf  # noqa: PLC0415  # seconds

    meta_graph = _meta_graph(tf, attack.build, around, attack.tags)
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    message = SavedModel(saved_model_schema_version=1, meta_graphs=[meta_graph])
    encoded = message.SerializeToString()
    (folder / "saved_model.pb").write_bytes(attack.encode(encoded) if attack.encode else encoded)
    if attack.checkpoint:
        _write_checkpoint(tf, folder / "variables" / "variables", 1.0)
    return folder


def _meta_graph(tf: Any, build: Build, around: Surroundings, tags: Sequence[str]) -> Any:
    from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef, MetaGraphDef, TensorInfo  # noqa: PLC0415

    with tf.Graph().as_default() as graph:
        tf.compat.v1.placeholder(tf.string, [None], name="x")
        parts = build(tf, around)
        meta = MetaGraphDef(graph_def=graph.as_graph_def())
    meta.meta_info_def.tags.extend(tags)

    def info(name: str) -> Any:
        tensor = graph.get_tensor_by_name(name)
        return TensorInfo(name=name, dtype=tensor.dtype.as_datatype_enum, tensor_shape=tensor.shape.as_proto())

    signature = meta.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    signature.inputs["x"].CopyFrom(info(parts.x))
    signature.outputs["y"].CopyFrom(info(parts.y))
    for name, alias, tensor in parts.signatures:
        meta.signature_def[name].outputs[alias].CopyFrom(info(tensor))
    if parts.init:
        meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = parts.init
    for key, operation in (("saved_model_main_op", parts.main_op), ("legacy_init_op", parts.legacy)):
        if operation:
            meta.collection_def[key].node_list.value.append(operation)
    assets = [AssetFileDef(tensor_info=TensorInfo(name=tensor), filename=name) for tensor, name in parts.assets]
    if parts.collected:
        for asset in assets:
            meta.collection_def["saved_model_assets"].any_list.value.add().Pack(asset)
    else:
        meta.asset_file_def.extend(assets)
    if parts.saver:
        meta.saver_def.filename_tensor_name, meta.saver_def.restore_op_name = parts.saver
    if parts.change:
        parts.change(meta)
    return meta


def _write_checkpoint(tf: Any, prefix: Path, value: float) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        session.run(tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=["w"], shape_and_slices=[""], tensors=[[value]]))


def _found_in(tf: Any, table: Any) -> str:
    """Return the tensor that looks the number 0 up in a table of lines, for each element of x."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    keys = tf.zeros_like(x, tf.int64)
    values = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=keys, default_value="")
    return str(tf.identity(values, name="y").name)


def _lines(tf: Any, name: str = "lines") -> Any:
    return tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.string, shared_name=name, name=name)


def _initialise(tf: Any, table: Any, filename: Any, name: str = "fill") -> str:
    """Return the operation that reads a table's lines from a file."""
    fill = tf.raw_ops.InitializeTableFromTextFileV2(
        table_handle=table, filename=filename, key_index=-1, value_index=-2, vocab_size=-1, delimiter="\t"
    )
    with tf.control_dependencies([fill]):
        return str(tf.no_op(name=name).name)


def read_file(tf: Any, around: Surroundings) -> Parts:
    """A request reads a file."""
    content = tf.io.read_file(str(around.secret))
    return Parts(y=tf.fill(tf.shape(tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")), content).name)


def graph_in_a_constant(tf: Any, around: Surroundings) -> Parts:
    """A dataset is made from a serialised graph, which reads one file and writes another."""
    with tf.Graph().as_default() as hidden:
        content = tf.io.read_file(str(around.secret))
        with tf.control_dependencies([tf.io.write_file(str(around.written), "taken")]):
            dataset = tf.raw_ops.TensorDataset(components=[tf.identity(content)], output_shapes=[[]], metadata="")
        tf.raw_ops.Identity(input=dataset, name="hidden")
        serialised = hidden.as_graph_def()
    serialised.node.add(name="dataset", op="_Retval", input=["hidden"])
    serialised.node[-1].attr["T"].type = tf.variant.as_datatype_enum
    serialised.node[-1].attr["index"].i = 0
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    nothing = tf.strings.substr(x[0], 0, 0)  # else TensorFlow would make the dataset while it optimises the graph
    found = tf.raw_ops.DatasetFromGraph(graph_def=tf.strings.join([serialised.SerializeToString(), nothing]))
    item = tf.raw_ops.DatasetToSingleElement(dataset=found, output_types=[tf.string], output_shapes=[[]])[0]
    return Parts(y=tf.reshape(item, [1]).name)


def table_of_a_host_file(tf: Any, around: Surroundings) -> Parts:
    """The initialiser fills a table from a file that is not an asset."""
    table = _lines(tf)
    return Parts(y=_found_in(tf, table), init=_initialise(tf, table, str(around.secret)))


def table_by_main_op(tf: Any, around: Surroundings) -> Parts:
    """The same, started as in older SavedModels."""
    table = _lines(tf)
    return Parts(y=_found_in(tf, table), main_op=_initialise(tf, table, str(around.secret)))


def table_by_legacy_init_op(tf: Any, around: Surroundings) -> Parts:
    """The same, started as in the oldest."""
    table = _lines(tf)
    return Parts(y=_found_in(tf, table), legacy=_initialise(tf, table, str(around.secret)))


def table_by_the_restore_operation(tf: Any, around: Surroundings) -> Parts:
    """The same, in the place of restoring variables."""
    table = _lines(tf)
    tf.constant("none", name="filename")
    return Parts(y=_found_in(tf, table), saver=("filename:0", _initialise(tf, table, str(around.secret))))


def asset_above_the_folder(tf: Any, around: Surroundings) -> Parts:
    """An asset whose name leads out of the folder of assets."""
    table = _lines(tf)
    filename = tf.constant("words.txt", name="filename")
    above = "../" * len(around.assets.parts) + str(around.secret).removeprefix("/")
    return Parts(y=_found_in(tf, table), init=_initialise(tf, table, filename), assets=[(filename.name, above)])


def asset_in_the_collection_above_the_folder(tf: Any, around: Surroundings) -> Parts:
    """The same, listed as in older SavedModels."""
    parts = asset_above_the_folder(tf, around)
    return Parts(y=parts.y, init=parts.init, assets=parts.assets, collected=True)


def assets_listed_twice(tf: Any, around: Surroundings) -> Parts:
    """An asset in the collection, which is not fed because the meta graph has its own assets."""
    table = _lines(tf)
    filename = tf.constant(str(around.secret), name="filename")
    other = tf.constant("", name="other")

    def change(meta: Any) -> None:
        from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef, TensorInfo  # noqa: PLC0415

        fed = AssetFileDef(tensor_info=TensorInfo(name=filename.name), filename="words.txt")
        meta.collection_def["saved_model_assets"].any_list.value.add().Pack(fed)

    return Parts(
        y=_found_in(tf, table),
        init=_initialise(tf, table, filename),
        assets=[(other.name, "words.txt")],
        change=change,
    )


def joined_to_an_asset(tf: Any, around: Surroundings) -> Parts:
    """A file name that is computed from an asset's path."""
    table = _lines(tf)
    path = tf.constant("", name="path")
    above = "/.." * len(around.assets.parts) + str(around.secret)
    filename = tf.strings.join([tf.strings.regex_replace(path, "/words.txt$", ""), above])
    return Parts(y=_found_in(tf, table), init=_initialise(tf, table, filename), assets=[(path.name, "words.txt")])


def overwritten_asset_path(tf: Any, around: Surroundings) -> Parts:
    """The memory of the path that the server feeds is overwritten before the table reads it."""
    table = _lines(tf)
    path = tf.constant("", name="path")
    same_memory = tf.reshape(path, [1])
    changed = tf.raw_ops.InplaceUpdate(x=same_memory, i=[0], v=[str(around.secret)])
    with tf.control_dependencies([changed]):
        init = _initialise(tf, table, path)
    return Parts(y=_found_in(tf, table), init=init, assets=[(path.name, "words.txt")])


def path_in_a_function(tf: Any, around: Surroundings) -> Parts:
    """The initialiser calls a function with the name of a file of the host."""
    table = _lines(tf)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def fill(handle: Any, filename: Any) -> Any:
        tf.raw_ops.InitializeTableFromTextFileV2(
            table_handle=handle, filename=filename, key_index=-1, value_index=-2, vocab_size=-1, delimiter="\t"
        )
        return tf.constant(0)

    with tf.control_dependencies([fill(table, tf.constant(str(around.secret)))]):
        init = tf.no_op(name="fill_by_function").name
    return Parts(y=_found_in(tf, table), init=init)


def path_in_a_branch(tf: Any, around: Surroundings) -> Parts:
    """The same, in the branch of a condition, with an asset's path that the branch does not use."""
    table = _lines(tf)
    path = tf.constant("", name="path")

    def fill() -> Any:
        tf.raw_ops.InitializeTableFromTextFileV2(
            table_handle=table,
            filename=tf.constant(str(around.secret)),
            key_index=-1,
            value_index=-2,
            vocab_size=-1,
            delimiter="\t",
        )
        return tf.identity(path)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def choose(condition: Any) -> Any:
        return tf.cond(condition, fill, lambda: tf.identity(path))

    with tf.control_dependencies([choose(tf.constant(value=True))]):
        init = tf.no_op(name="fill_by_branch").name
    return Parts(y=_found_in(tf, table), init=init, assets=[(path.name, "words.txt")])


def _path_variable(tf: Any, name: str) -> Any:
    return tf.raw_ops.VarHandleOp(dtype=tf.string, shape=[], shared_name="path", name=name)


def path_variable_with_another_value(tf: Any, around: Surroundings) -> Parts:
    """A variable gets the path of an asset, and then a different path."""
    table = _lines(tf)
    fed = tf.constant("", name="fed")
    variable = _path_variable(tf, "path")
    with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=variable, value=fed)]):
        second = tf.raw_ops.AssignVariableOp(resource=variable, value=tf.constant(str(around.secret)))
    with tf.control_dependencies([second]):
        init = _initialise(tf, table, tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.string))
    return Parts(y=_found_in(tf, table), init=init, assets=[(fed.name, "words.txt")])


def path_variable_with_another_handle(tf: Any, around: Surroundings) -> Parts:
    """The same through a second handle of the variable."""
    table = _lines(tf)
    fed = tf.constant("", name="fed")
    variable = _path_variable(tf, "path")
    with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=variable, value=fed)]):
        second = tf.raw_ops.AssignVariableOp(
            resource=_path_variable(tf, "again"), value=tf.constant(str(around.secret))
        )
    with tf.control_dependencies([second]):
        init = _initialise(tf, table, tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.string))
    return Parts(y=_found_in(tf, table), init=init, assets=[(fed.name, "words.txt")])


def path_variable_without_a_name(tf: Any, around: Surroundings) -> Parts:
    """The same through a second handle of the variable, which both nodes leave without a name."""
    table = _lines(tf)
    fed = tf.constant("", name="fed")
    variable, again = (tf.raw_ops.VarHandleOp(dtype=tf.string, shape=[], shared_name="", name=name) for name in "vw")
    with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=variable, value=fed)]):
        second = tf.raw_ops.AssignVariableOp(resource=again, value=tf.constant(str(around.secret)))
    with tf.control_dependencies([second]):
        init = _initialise(tf, table, tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.string))
    return Parts(y=_found_in(tf, table), init=init, assets=[(fed.name, "words.txt")])


def path_variable_in_a_function(tf: Any, around: Surroundings) -> Parts:
    """The same by a function that takes the handle."""
    table = _lines(tf)
    fed = tf.constant("", name="fed")
    variable = _path_variable(tf, "path")

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def overwrite(handle: Any) -> Any:
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant(str(around.secret)))
        return tf.constant(0)

    with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=variable, value=fed)]):
        second = overwrite(variable)
    with tf.control_dependencies([second]):
        init = _initialise(tf, table, tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.string))
    return Parts(y=_found_in(tf, table), init=init, assets=[(fed.name, "words.txt")])


def saved_while_loading(tf: Any, around: Surroundings) -> Parts:
    """The initialiser saves a tensor to a file."""
    saved = tf.raw_ops.SaveV2(
        prefix=str(around.written), tensor_names=["taken"], shape_and_slices=[""], tensors=[tf.constant(["a"])]
    )
    with tf.control_dependencies([saved]):
        init = tf.no_op(name="save").name
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    return Parts(y=tf.identity(x).name, init=init)


def saved_beside_the_variables(tf: Any, around: Surroundings) -> Parts:
    """The restore operation saves to the path that the server feeds: into the SavedModel's own folder."""
    filename = tf.constant("model", name="filename")
    saved = tf.raw_ops.SaveV2(
        prefix=tf.strings.join([filename, f"/../../../{around.written.name}"]),
        tensor_names=["taken"],
        shape_and_slices=[""],
        tensors=[tf.constant(["a"])],
    )
    with tf.control_dependencies([saved]):
        restore = tf.no_op(name="restore").name
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    return Parts(y=tf.identity(x).name, saver=(filename.name, restore))


def variables_of_the_host(tf: Any, around: Surroundings) -> Parts:
    """The initialiser restores a variable from a checkpoint of the host."""
    prefix = around.secret.parent / "checkpoint" / "ck"
    prefix.parent.mkdir(exist_ok=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        session.run(
            tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=["w"], shape_and_slices=[""], tensors=[["SECRET"]])
        )
    variable = tf.raw_ops.VarHandleOp(dtype=tf.string, shape=[1], shared_name="w")
    (value,) = tf.raw_ops.RestoreV2(prefix=str(prefix), tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.string])
    with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=variable, value=value)]):
        init = tf.no_op(name="take").name
    return Parts(y=tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.string).name, main_op=init)


def variables_by_the_savers_own_constant(tf: Any, around: Surroundings) -> Parts:
    """The same through the saver's file name tensor, which the server does not feed to the initialiser."""
    parts = variables_of_the_host(tf, around)
    filename = tf.constant(str(around.secret.parent / "checkpoint" / "ck"), name="filename")
    graph = tf.compat.v1.get_default_graph()
    restore = next(operation for operation in graph.get_operations() if operation.type == "RestoreV2")
    restore._update_input(0, filename)  # the only way to change an input
    tf.no_op(name="nothing")
    return Parts(y=parts.y, main_op=parts.main_op, saver=(filename.name, "nothing"))


def initialiser_that_a_client_calls(tf: Any, around: Surroundings) -> Parts:
    """The initialiser's signature has an output, which a client asks for; then nothing feeds the asset's path."""
    table = _lines(tf)
    filename = tf.constant(str(around.secret), name="filename")
    fill = _initialise(tf, table, filename)
    with tf.control_dependencies([tf.compat.v1.get_default_graph().get_operation_by_name(fill)]):
        first = tf.raw_ops.LookupTableFindV2(
            table_handle=_lines(tf, "other"), keys=tf.constant([0], tf.int64), default_value=""
        )
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    return Parts(
        y=tf.identity(x).name,
        init=fill,
        assets=[(filename.name, "words.txt")],
        signatures=[("__saved_model_init_op", "first", first.name)],
    )


def kept_in_a_variable(tf: Any, _around: Surroundings) -> Parts:
    """A request leaves its input for the next one."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    variable = tf.raw_ops.VarHandleOp(dtype=tf.string, shape=[1], shared_name="kept")
    with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=variable, value=tf.constant(["empty"]))]):
        init = tf.no_op(name="clear").name
    before = tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.string)
    with tf.control_dependencies([before]):
        keep = tf.raw_ops.AssignVariableOp(resource=variable, value=x)
    with tf.control_dependencies([keep]):
        return Parts(y=tf.identity(before).name, init=init)


def kept_in_a_queue(tf: Any, _around: Surroundings) -> Parts:
    """The same through a queue."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    queue = tf.raw_ops.FIFOQueueV2(component_types=[tf.string], shapes=[[1]], capacity=9, shared_name="kept")
    start = tf.raw_ops.QueueEnqueueV2(handle=queue, components=[tf.constant(["empty"])])
    with tf.control_dependencies([start]):
        init = tf.no_op(name="start").name
    with tf.control_dependencies([tf.raw_ops.QueueEnqueueV2(handle=queue, components=[x])]):
        (before,) = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.string])
    return Parts(y=tf.identity(before).name, init=init)


def kept_in_a_table(tf: Any, _around: Surroundings) -> Parts:
    """The same through a table that can change."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    table = tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.string, shared_name="kept")
    key = tf.constant([0], tf.int64)
    before = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=key, default_value="empty")
    with tf.control_dependencies([before]):
        keep = tf.raw_ops.LookupTableInsertV2(table_handle=table, keys=key, values=x)
    with tf.control_dependencies([keep]):
        return Parts(y=tf.identity(before).name)


def kept_in_a_constant(tf: Any, _around: Surroundings) -> Parts:
    """The same by writing into the memory of a constant."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    constant = tf.constant(["empty", "empty"], name="kept")
    before = tf.gather(constant, tf.shape(x) - 1)
    with tf.control_dependencies([before]):
        changed = tf.raw_ops.InplaceUpdate(x=constant, i=[0], v=x)
    with tf.control_dependencies([changed]):
        return Parts(y=tf.identity(before).name)


def kept_in_a_staging_area(tf: Any, _around: Surroundings) -> Parts:
    """The same through a staging area."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    area = {"dtypes": [tf.string], "shared_name": "kept", "container": "", "capacity": 9, "memory_limit": 0}
    with tf.control_dependencies([tf.raw_ops.Stage(values=[tf.constant(["empty"])], **without_types(area))]):
        init = tf.no_op(name="start").name
    with tf.control_dependencies([tf.raw_ops.Stage(values=[x], **without_types(area))]):
        (before,) = tf.raw_ops.Unstage(**area)
    return Parts(y=tf.identity(before).name, init=init)


def kept_in_an_iterator_of_the_loading_run(tf: Any, _around: Surroundings) -> Parts:
    """The same through an iterator without a name, whose handle loading keeps in a variable."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    types = {"output_types": [tf.string], "output_shapes": [[1]]}

    def dataset(value: Any) -> Any:
        once = tf.raw_ops.TensorDataset(components=[value], output_shapes=[[1]], metadata="")
        return tf.raw_ops.RepeatDataset(input_dataset=once, count=tf.constant(-1, tf.int64), metadata="", **types)

    variable = tf.raw_ops.VarHandleOp(dtype=tf.resource, shape=[], shared_name="iterator")
    iterator = tf.raw_ops.AnonymousIteratorV3(**types)
    start = tf.raw_ops.MakeIterator(dataset=dataset(tf.constant(["empty"])), iterator=iterator)
    with tf.control_dependencies([start, tf.raw_ops.AssignVariableOp(resource=variable, value=iterator)]):
        init = tf.no_op(name="start").name
    kept = tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.resource)
    (before,) = tf.raw_ops.IteratorGetNext(iterator=kept, **types)
    with tf.control_dependencies([before]):
        keep = tf.raw_ops.MakeIterator(dataset=dataset(x), iterator=kept)
    with tf.control_dependencies([keep]):
        return Parts(y=tf.identity(before).name, init=init)


def kept_in_an_iterator_whose_type_the_caller_gives(tf: Any, _around: Surroundings) -> Parts:
    """The same, where the functions that keep and return the handle take its type from their callers."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    types = {"output_types": [tf.string], "output_shapes": [[1]]}

    def dataset(value: Any) -> Any:
        once = tf.raw_ops.TensorDataset(components=[value], output_shapes=[[1]], metadata="")
        return tf.raw_ops.RepeatDataset(input_dataset=once, count=tf.constant(-1, tf.int64), metadata="", **types)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def keep(handle: Any) -> Any:
        variable = tf.raw_ops.VarHandleOp(dtype=tf.resource, shape=[], shared_name="iterator")
        tf.raw_ops.AssignVariableOp(resource=variable, value=handle)
        return tf.constant(0)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def take(_nothing: Any) -> Any:
        variable = tf.raw_ops.VarHandleOp(dtype=tf.resource, shape=[], shared_name="iterator")
        return tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.resource)

    iterator = tf.raw_ops.AnonymousIteratorV3(**types)
    start = tf.raw_ops.MakeIterator(dataset=dataset(tf.constant(["empty"])), iterator=iterator)
    with tf.control_dependencies([start, keep(iterator)]):
        init = tf.no_op(name="start").name
    kept = take(tf.constant(0))
    (before,) = tf.raw_ops.IteratorGetNext(iterator=kept, **types)
    with tf.control_dependencies([before]):
        again = tf.raw_ops.MakeIterator(dataset=dataset(x), iterator=kept)
    with tf.control_dependencies([again]):
        y = tf.identity(before).name

    def change(meta: Any) -> None:
        resource = tf.resource.as_datatype_enum
        for function in meta.graph_def.library.function:
            function.signature.attr.add(name="T", type="type")
            for node in function.node_def:
                if "dtype" in node.attr and node.attr["dtype"].type == resource:
                    node.attr["dtype"].placeholder = "T"
        for node in meta.graph_def.node:
            if "f" in node.attr:
                node.attr["f"].func.attr["T"].type = resource

    return Parts(y=y, init=init, change=change)


def reserved_key_of_a_table(tf: Any, _around: Surroundings) -> Parts:
    """The first request's input becomes the reserved key of a table, which rejects this key in later requests."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    number = tf.strings.to_hash_bucket_fast(x, 2**62)
    table = tf.raw_ops.MutableDenseHashTableV2(
        empty_key=number[0], deleted_key=tf.constant(-1, tf.int64), value_dtype=tf.int64, shared_name="kept"
    )
    guess = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=number[1:], default_value=tf.constant(0, tf.int64))
    return Parts(y=tf.strings.as_string(guess).name)


def reserved_key_that_a_client_feeds(tf: Any, _around: Surroundings) -> Parts:
    """The same with a constant that is an input of the signature."""
    key = tf.constant(7, tf.int64, name="key")
    table = tf.raw_ops.MutableDenseHashTableV2(
        empty_key=key, deleted_key=tf.constant(-1, tf.int64), value_dtype=tf.int64, shared_name="kept"
    )
    return Parts(x=key.name, y=tf.raw_ops.LookupTableSizeV2(table_handle=table).name)


def position_of_a_generator(tf: Any, _around: Surroundings) -> Parts:
    """A request draws as many random numbers as a byte of its input says, and the next one reads the position."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    variable = tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[3], shared_name="generator")
    zero = tf.constant([0, 0, 0], tf.int64)
    with tf.control_dependencies([tf.raw_ops.AssignVariableOp(resource=variable, value=zero)]):
        init = tf.no_op(name="start").name
    before = tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.int64)
    with tf.control_dependencies([before]):
        drawn = tf.raw_ops.StatefulUniformFullInt(
            resource=variable, algorithm=tf.constant(1, tf.int64), shape=_first_byte(tf, x), dtype=tf.uint64
        )
    with tf.control_dependencies([drawn]):
        return Parts(y=tf.reshape(tf.strings.as_string(before[0]), [1]).name, init=init)


def position_of_a_seeded_operation(tf: Any, _around: Surroundings) -> Parts:
    """The same with a fixed seed: the first number that a request gets shows the position."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    drawn = tf.raw_ops.RandomUniform(shape=_first_byte(tf, x), seed=1, seed2=2, dtype=tf.float32)
    return Parts(y=tf.strings.as_string(drawn[:1]).name)


def _first_byte(tf: Any, x: Any) -> Any:
    return tf.cast(tf.io.decode_raw(tf.strings.substr(x[0], 0, 1), tf.uint8), tf.int32)


def pattern_in_an_error(tf: Any, _around: Surroundings) -> Parts:
    """A request's input becomes an invalid pattern, which the library of patterns prints to standard error."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    pattern = tf.strings.join(["(", x[0]])
    return Parts(y=tf.raw_ops.RegexReplace(input=x, pattern=pattern, rewrite="").name)


def replacement_in_an_error(tf: Any, _around: Surroundings) -> Parts:
    """The same with the text that the match is replaced by."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    rewrite = tf.strings.join([x[0], "\\q"])
    return Parts(y=tf.raw_ops.RegexReplace(input=x, pattern=".", rewrite=rewrite).name)


def pattern_that_a_client_feeds(tf: Any, _around: Surroundings) -> Parts:
    """The same with a constant that is an input of the signature."""
    pattern = tf.constant("a", name="pattern")
    matched = tf.raw_ops.RegexFullMatch(input=["a"], pattern=pattern)
    return Parts(x=pattern.name, y=tf.strings.as_string(matched).name)


def without_types(area: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a staging area that all of its operations have."""
    return {key: value for key, value in area.items() if key != "dtypes"}


def unwritten_memory(tf: Any, _around: Surroundings) -> Parts:
    """A request returns memory as it was found."""
    found = tf.raw_ops.Empty(shape=[4096], dtype=tf.uint8)
    return Parts(y=tf.identity(found).name)


def unwritten_rows(tf: Any, _around: Surroundings) -> Parts:
    """The same by an operation that takes more rows than it gets."""
    found = tf.raw_ops.ParallelConcat(values=[tf.zeros([1, 64], tf.uint8)], shape=[64, 64])
    return Parts(y=tf.identity(found).name)


def hidden_in_an_implementation(tf: Any, around: Surroundings) -> Parts:
    """A function saves a file; the graph calls a different function with the same interface."""

    @tf.function(autograph=False, experimental_attributes={"api_implements": "plain"})  # type: ignore[untyped-decorator]
    def good(value: Any) -> Any:
        return tf.identity(value)

    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    answer = good(x)

    def change(meta: Any) -> None:
        library = meta.graph_def.library
        bad = library.function.add()
        bad.CopyFrom(library.function[0])
        bad.signature.name = "bad"
        saved = bad.node_def.add(name="save", op="SaveV2")
        saved.input.append(str(around.written))

    return Parts(y=tf.identity(answer).name, change=change)


def hidden_in_a_gradient(tf: Any, _around: Surroundings) -> Parts:
    """A function saves a file, as the gradient of a different function."""

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def good(value: Any) -> Any:
        return tf.identity(value)

    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    answer = good(x)

    def change(meta: Any) -> None:
        library = meta.graph_def.library
        library.function.add().signature.name = "bad"
        library.function[-1].node_def.add(name="save", op="SaveV2")
        library.gradient.add(function_name=library.function[0].signature.name, gradient_func="bad")

    return Parts(y=tf.identity(answer).name, change=change)


def hidden_in_a_functions_attribute(tf: Any, _around: Surroundings) -> Parts:
    """A function saves a file, as the attribute of a function in an attribute."""

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def good(value: Any) -> Any:
        return tf.identity(value)

    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    answer = good(x)

    def change(meta: Any) -> None:
        meta.graph_def.library.function.add().signature.name = "bad"
        meta.graph_def.library.function[-1].node_def.add(name="save", op="SaveV2")
        call = next(node for node in meta.graph_def.node if node.op.endswith("PartitionedCall"))
        call.attr["f"].func.attr["F"].func.name = "bad"

    return Parts(y=tf.identity(answer).name, change=change)


def named_like_an_operation(tf: Any, _around: Surroundings) -> Parts:
    """A function has the name of an operation of TensorFlow."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")

    def change(meta: Any) -> None:
        meta.graph_def.library.function.add().signature.name = "Identity"
        meta.graph_def.library.function[-1].node_def.add(name="save", op="SaveV2")

    return Parts(y=tf.identity(x).name, change=change)


def hidden_main_op(encoded: bytes) -> bytes:
    """Give the entry of the initialiser an unknown field: TensorFlow reads the entry, Python does not."""
    from tensorflow.core.protobuf.meta_graph_pb2 import CollectionDef  # noqa: PLC0415
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: PLC0415

    message = SavedModel.FromString(encoded)
    (graph,) = message.meta_graphs
    value = CollectionDef()
    value.CopyFrom(graph.collection_def["saved_model_main_op"])
    del graph.collection_def["saved_model_main_op"]
    entry = _field(1, b"saved_model_main_op") + _field(2, value.SerializeToString()) + _field(7, b"unknown")
    return b"\x08\x01" + _field(2, graph.SerializeToString() + _field(4, entry))


def _field(number: int, value: bytes) -> bytes:
    """Return the encoding of a field with a length (protobuf.dev/programming-guides/encoding)."""
    size, length = len(value), bytearray()
    while size > 0x7F:  # seven bits in each byte
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + value


def forged_handle(tf: Any, _around: Surroundings) -> Parts:
    """A constant is the handle of a resource."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")

    def change(meta: Any) -> None:
        node = meta.graph_def.node.add(name="forged", op="Const")
        node.attr["dtype"].type = tf.resource.as_datatype_enum
        node.attr["value"].tensor.dtype = tf.resource.as_datatype_enum

    return Parts(y=tf.identity(x).name, change=change)


def parsed_handle(tf: Any, _around: Surroundings) -> Parts:
    """A request's bytes become the handle of a resource."""
    x = tf.compat.v1.get_default_graph().get_tensor_by_name("x:0")
    handle = tf.raw_ops.ParseTensor(serialized=x[0], out_type=tf.resource)
    return Parts(y=tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.string).name)


ATTACKS = {
    "read_file": Attack(build=read_file, refused=("ReadFile",), reveals=True),
    "graph_in_a_constant": Attack(build=graph_in_a_constant, refused=("DatasetFromGraph",), reveals=True, writes=True),
    "tags_twice": Attack(build=read_file, refused=("ReadFile",), reveals=True, tags=("serve", "serve")),
    **{
        found.__name__: Attack(build=found, refused=("InitializeTableFromTextFileV2",), reveals=True)
        for found in (
            table_of_a_host_file,
            table_by_main_op,
            table_by_legacy_init_op,
            assets_listed_twice,
            joined_to_an_asset,
            path_in_a_function,
            path_in_a_branch,
            path_variable_with_another_value,
            path_variable_with_another_handle,
            path_variable_without_a_name,
            path_variable_in_a_function,
        )
    },
    "table_by_the_restore_operation": Attack(
        build=table_by_the_restore_operation, refused=("InitializeTableFromTextFileV2",), reveals=True, checkpoint=True
    ),
    "asset_above_the_folder": Attack(build=asset_above_the_folder, refused="model.asset-name", reveals=True),
    "asset_in_the_collection_above_the_folder": Attack(
        build=asset_in_the_collection_above_the_folder, refused="model.asset-name", reveals=True
    ),
    "overwritten_asset_path": Attack(build=overwritten_asset_path, refused=("InplaceUpdate",), reveals=True),
    "saved_while_loading": Attack(build=saved_while_loading, refused=("SaveV2",), writes=True),
    "saved_beside_the_variables": Attack(
        build=saved_beside_the_variables, refused=("SaveV2",), writes=True, checkpoint=True
    ),
    "variables_of_the_host": Attack(build=variables_of_the_host, refused=("RestoreV2",), reveals=True),
    "variables_by_the_savers_own_constant": Attack(
        build=variables_by_the_savers_own_constant, refused=("RestoreV2",), reveals=True, checkpoint=True
    ),
    "initialiser_that_a_client_calls": Attack(
        build=initialiser_that_a_client_calls, refused=("InitializeTableFromTextFileV2",)
    ),
    "kept_in_a_variable": Attack(build=kept_in_a_variable, refused=("AssignVariableOp",)),
    "kept_in_a_queue": Attack(build=kept_in_a_queue, refused=("FIFOQueueV2", "QueueDequeueV2", "QueueEnqueueV2")),
    "kept_in_a_table": Attack(build=kept_in_a_table, refused=("LookupTableInsertV2",)),
    "kept_in_a_constant": Attack(build=kept_in_a_constant, refused=("InplaceUpdate",)),
    "kept_in_a_staging_area": Attack(build=kept_in_a_staging_area, refused=("Stage", "Unstage")),
    "kept_in_an_iterator_of_the_loading_run": Attack(
        build=kept_in_an_iterator_of_the_loading_run, refused=("AssignVariableOp", "ReadVariableOp", "VarHandleOp")
    ),
    "kept_in_an_iterator_whose_type_the_caller_gives": Attack(
        build=kept_in_an_iterator_whose_type_the_caller_gives, refused="model.ambiguous"
    ),
    "reserved_key_of_a_table": Attack(build=reserved_key_of_a_table, refused=("MutableDenseHashTableV2",)),
    "reserved_key_that_a_client_feeds": Attack(
        build=reserved_key_that_a_client_feeds, refused=("MutableDenseHashTableV2",)
    ),
    "position_of_a_generator": Attack(build=position_of_a_generator, refused=("StatefulUniformFullInt",)),
    "position_of_a_seeded_operation": Attack(build=position_of_a_seeded_operation, refused=("RandomUniform",)),
    "pattern_in_an_error": Attack(build=pattern_in_an_error, refused=("RegexReplace",)),
    "replacement_in_an_error": Attack(build=replacement_in_an_error, refused=("RegexReplace",)),
    "pattern_that_a_client_feeds": Attack(build=pattern_that_a_client_feeds, refused=("RegexFullMatch",)),
    "unwritten_memory": Attack(build=unwritten_memory, refused=("Empty",)),
    "unwritten_rows": Attack(build=unwritten_rows, refused=("ParallelConcat",)),
    "hidden_in_an_implementation": Attack(build=hidden_in_an_implementation, refused=("SaveV2",)),
    "hidden_in_a_gradient": Attack(build=hidden_in_a_gradient, refused=("SaveV2",)),
    "hidden_in_a_functions_attribute": Attack(build=hidden_in_a_functions_attribute, refused=("SaveV2",)),
    "named_like_an_operation": Attack(build=named_like_an_operation, refused="model.ambiguous"),
    "hidden_main_op": Attack(build=table_by_main_op, refused="model.ambiguous", reveals=True, encode=hidden_main_op),
    "forged_handle": Attack(build=forged_handle, refused=("Const",)),
    "parsed_handle": Attack(build=parsed_handle, refused=("ParseTensor",)),
}
"""By name. Models that neither reveal nor write anything are refused for what their operations could do."""

KEEPING = tuple(name for name in ATTACKS if name.startswith("kept_"))
"""Attacks whose second answer is the first request."""
