// Opened as a file, a page may start no worker: Chromium refuses. Then the search, Material's only worker, runs in a
// hidden frame instead, which has the page's own rights.
if (location.protocol === 'file:') {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement('iframe')
      frame.hidden = true
      document.body.append(frame)
      this.inner = frame.contentWindow
      this.inner.postMessage = (data) => this.dispatchEvent(new MessageEvent('message', { data }))
      this.inner.importScripts = (...urls) => Promise.all(urls.map((each) => this.load(new URL(each, url))))
      this.ready = this.load(url)
    }
    load(url) {
      const script = this.inner.document.createElement('script')
      script.src = url
      return new Promise((resolve, reject) => {
        script.onload = resolve
        script.onerror = reject
        this.inner.document.body.append(script)
      })
    }
    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new this.inner.MessageEvent('message', { data })))
    }
    terminate() {
      this.inner.frameElement.remove()
    }
  }
}
