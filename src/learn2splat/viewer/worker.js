let sort = null;
onmessage = (event) => {
  if (event.data.positions) sort = makeSorter(event.data.positions);
  else {
    const order = sort(event.data.forward, event.data.position, event.data.near);
    postMessage(order, [order.buffer]);
  }
};
