"""Which payloads the options ask for."""

from __future__ import annotations

from dataclasses import replace

from batchd_client.loadtest.options import LoadTestOptions
from batchd_client.loadtest.payload import PayloadFactory
from batchd_client.loadtest.questions import model_metadata
from batchd_client.loadtest.tensor_payloads import RecordedPayloads, read_items, tensor_payloads
from batchd_client.loadtest.text_payloads import TextPayloads, read_texts, text_input


async def payload_factory(options: LoadTestOptions, model: str) -> PayloadFactory:
    """Return what makes requests for `model`, asking the server what the model takes where that is needed.

    Raises:
        ValueError: where the options do not fit the model, or a file is not what it should be.
        BatchdError: the server cannot be asked.
    """
    if options.inputs is not None and options.payload in ("auto", "inputs"):
        return RecordedPayloads(model=model, recorded=read_items(options.inputs))
    if options.texts is not None and options.payload in ("auto", "texts"):
        lengths = options.length_distribution() if options.lengths is not None else None
        texts = read_texts(options.texts)
        if options.api == "embeddings":
            return TextPayloads(model=model, texts=texts, lengths=lengths)
        name = (
            options.input_names[0] if options.input_names else text_input(await model_metadata(options.target(), model))
        )
        return TextPayloads(model=model, texts=texts, api="oip", input_name=name, lengths=lengths)
    metadata = await model_metadata(options.target(), model)
    return tensor_payloads(replace(metadata, name=model), options.length_distribution(), only=options.input_names)
